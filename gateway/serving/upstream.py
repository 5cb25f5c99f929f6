"""The story of a request for a model that runs elsewhere: it goes to one server, and to another if that fails early.

Once anything of an answer was passed on there is no other try: the client has part of it.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import msgspec
from msgspec import Raw

from gateway.errors import UpstreamFailed, UpstreamRefused, UpstreamsDown
from gateway.model_pool.upstream import ELSEWHERE, Upstream
from gateway.model_pool.upstream_answer import UpstreamAnswer
from gateway.model_pool.upstream_model import UpstreamModel
from gateway.serving.upstream_events import EventSplitter, says_something

MOST_TRIES_SENT = 2
"""A request that two servers broke down under is not given to a third."""

MOST_ANSWER_BYTES = 256 * 1024 * 1024
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Call:
    """A POST: `path` is below the server's base URL, `fields` are the body's."""

    path: str
    fields: dict[str, Raw]
    headers: list[tuple[str, str]]
    session: str
    stream: bool

    def body(self, model: str) -> bytes:
        return msgspec.json.encode({**self.fields, "model": model})


class Forwarding:
    """One request on its way. Belongs to the task that reads `parts`."""

    def __init__(self, model: UpstreamModel, call: Call) -> None:
        self.headers: dict[str, str] = {}
        """Of the answer, once its first part came."""
        self._model = model
        self._call = call
        self._tried: set[str] = set()
        self._tries_sent = 0
        self._last_error: UpstreamFailed | UpstreamRefused | None = None

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The answer's body in one part, or whole server-sent events if a stream was asked for.

        Raises `UpstreamFailed`, `UpstreamRefused`, `UpstreamsDown`, `Overloaded`, `ShuttingDown`.
        """
        while True:
            begun = False
            async with AsyncExitStack() as held:
                upstream = await self._next_upstream(held)
                try:
                    answer = await held.enter_async_context(
                        upstream.answer(self._call.path, self._call.body(upstream.model), self._call.headers)
                    )
                    self.headers.update(answer.headers)
                    if not self._call.stream:
                        yield await _whole(answer)
                        return
                    splitter = EventSplitter()
                    while not splitter.ended and (events := await _events(answer, splitter)):
                        if not begun and says_something(events):
                            begun = True
                            answer.begun()
                        yield events
                    await answer.drain()
                    return
                except (UpstreamFailed, UpstreamRefused) as error:
                    upstream.troubled(error)
                    if begun or not self._may_go_elsewhere(error):
                        raise
                    self._tried.add(upstream.name)
                    self._last_error = error

    async def _next_upstream(self, held: AsyncExitStack) -> Upstream:
        try:
            return await held.enter_async_context(self._model.lease(self._call.session, self._tried))
        except UpstreamsDown:
            if self._last_error:
                raise self._last_error from None
            raise

    def _may_go_elsewhere(self, error: UpstreamFailed | UpstreamRefused) -> bool:
        if isinstance(error, UpstreamRefused):
            return error.status in ELSEWHERE
        self._tries_sent += error.sent
        return self._tries_sent < MOST_TRIES_SENT


async def _events(answer: UpstreamAnswer, splitter: EventSplitter) -> bytes:
    """The next whole events; b"" at the end of an answer by which the client knows that it failed."""
    if answer.media_type != EVENT_STREAM:
        raise UpstreamFailed(f"{answer.server} answered no stream but {answer.media_type or 'nothing'}", "garbage")
    while chunk := await answer.read():
        if events := splitter.feed(chunk):
            return events
    if events := splitter.finish():
        return events
    if not splitter.told_error:
        raise UpstreamFailed(f"{answer.server} broke its answer off", "cut")
    return b""


async def _whole(answer: UpstreamAnswer) -> bytes:
    body = await answer.read_all(MOST_ANSWER_BYTES)
    if body is None:
        raise UpstreamFailed(f"{answer.server} answered more than {MOST_ANSWER_BYTES} bytes", "garbage")
    try:
        msgspec.json.decode(body, type=Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed(f"{answer.server} answered no valid JSON", "garbage") from error
    return body
