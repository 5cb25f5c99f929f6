"""What a server elsewhere answers, read with limits. Belongs to the event loop."""

import re
from collections.abc import Callable
from contextlib import suppress

import httpx
import msgspec

from gateway.config import UpstreamConfig
from gateway.errors import ShuttingDown, UpstreamFailed, UpstreamRefused
from gateway.model_pool.deadlines import Deadlines

DRAIN_SECONDS = 1.0
MOST_REFUSAL_BYTES = 64 * 1024
MOST_MESSAGE_CHARACTERS = 2000
KEPT_HERE = re.compile(
    "alt-svc|connection|content-(encoding|length|type)|date|keep-alive|proxy-authenticate|request-id|server|set-cookie"
    "|strict-transport-security|te|trailer|transfer-encoding|upgrade|via|www-authenticate|x-request-id"
)
"""Headers that belong to one connection (RFC 9110, section 7.6.1), or of which this server has its own."""


class UpstreamAnswer:
    """The body of a response, piece by piece."""

    def __init__(
        self,
        server: str,
        response: httpx.Response,
        group: UpstreamConfig,
        deadlines: Deadlines,
        heard: Callable[[], None],
    ) -> None:
        """`heard` is called whenever something came."""
        self.server = server
        self.media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.headers = {name: value for name, value in response.headers.items() if not KEPT_HERE.fullmatch(name)}
        self._chunks = response.aiter_bytes()
        self._limit_seconds = group.first_byte_seconds
        self._silence_seconds = group.silence_seconds
        self._deadlines = deadlines
        self._heard = heard

    async def read(self) -> bytes:
        """What came next, b"" at the end. Raises `UpstreamFailed`, `ShuttingDown`."""
        try:
            chunk = await self._deadlines.within(self._limit_seconds, anext(self._chunks, b""))
        except TimeoutError as error:
            raise UpstreamFailed(f"{self.server} sent nothing more for {self._limit_seconds:g} s", "silent") from error
        except httpx.HTTPError as error:
            if self._deadlines.ended:
                raise ShuttingDown from None
            raise UpstreamFailed(f"{self.server} closed the connection within its answer", "cut") from error
        self._heard()
        return chunk

    def begun(self) -> None:
        """From now on the time limit is the one for silence within an answer."""
        self._limit_seconds = self._silence_seconds

    async def drain(self) -> None:
        """Reads what follows the end of a stream, which is nothing with most servers, so that the connection can serve
        again."""
        with suppress(TimeoutError, httpx.HTTPError, ShuttingDown):
            await self._deadlines.within(DRAIN_SECONDS, self._read_rest())

    async def _read_rest(self) -> None:
        async for _ in self._chunks:
            pass

    async def read_all(self, most_bytes: int) -> bytes | None:
        """None if it is longer. Raises as `read` does."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read():
            size += len(piece)
            if size > most_bytes:
                return None
            pieces.append(piece)
        return b"".join(pieces)


async def refusal(answer: UpstreamAnswer, status: int) -> UpstreamFailed | UpstreamRefused:
    """An answer with an error's status, as an error to raise."""
    try:
        body = await answer.read_all(MOST_REFUSAL_BYTES)
    except UpstreamFailed:
        body = None  # the status is known nevertheless
    fields = _fields(body)
    message = _message(fields) or f"{answer.server} answered with status {status}"
    return UpstreamRefused(message, status, answer.headers, body if fields else None)


def _fields(body: bytes | None) -> dict[str, object]:
    try:
        return msgspec.json.decode(body or b"", type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _message(fields: dict[str, object]) -> str:
    """Where the usual servers have it: OpenAI's and Anthropic's, mlx_lm.server's, FastAPI's, old vLLM's."""
    error = fields.get("error")
    if isinstance(error, dict):
        error = error.get("message")
    found = next((text for text in (error, fields.get("detail"), fields.get("message")) if isinstance(text, str)), "")
    return found[:MOST_MESSAGE_CHARACTERS]
