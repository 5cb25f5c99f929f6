"""One server elsewhere that runs a model: is it up, and what does it answer. Belongs to the event loop."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
from msgspec import Struct

from gateway.config import UpstreamConfig
from gateway.errors import ShuttingDown, UpstreamFailed, UpstreamRefused
from gateway.model_pool.deadlines import Deadlines
from gateway.model_pool.upstream_answer import UpstreamAnswer, refusal
from gateway.model_pool.upstream_choice import MOST_REST_SECONDS, Standing, rest_seconds
from gateway.model_pool.upstream_listing import Listed, listed_model
from gateway.observability.upstream_metrics import OneUpstreamMetrics

log = logging.getLogger(__name__)

ELSEWHERE = frozenset({429, 502, 503, 504})
"""Statuses that say nothing of the request: another server may well answer it."""

OWN_FAULT = frozenset({401, 403, 407})
"""The gateway's key is not taken; the client's own is another matter."""

CHECK_TIMEOUT_SECONDS = 5.0
MISSES = 2
"""A server that is slow to answer a check, as one busy with a long prompt may be, is down after so many."""

CHECK_SECONDS_WHEN_DOWN = 1.0
MOST_LIST_BYTES = 1 << 20


class UpstreamState(Struct, frozen=True):
    """How a server stands, for operators."""

    url: str
    model: str
    up: bool
    doing: str
    outstanding: int
    max_concurrent: int
    requests: int
    failures: int


class Upstream:
    """`model` is what the server calls the model."""

    def __init__(
        self,
        model_id: str,
        url: str,
        group: UpstreamConfig,
        client: httpx.AsyncClient,
        deadlines: Deadlines,
        metrics: OneUpstreamMetrics,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when the server goes up or down, and after its first check."""
        self.name = server_name(url)
        self.url = url
        self.model = group.model or model_id
        self.up = True  # until something says otherwise
        self.checked = False
        self.listed = Listed()
        self.outstanding = 0
        self._model_id = model_id
        self._group = group
        self._client = client
        self._deadlines = deadlines
        self._metrics = metrics
        self._changed = changed
        self._doing = "not asked yet"
        self._rests_until = 0.0
        self._failures_in_a_row = 0
        self._misses = 0
        self._heard_at = -math.inf
        self._requests = self._failures = 0
        self._hurry = asyncio.Event()
        self._timeout = httpx.Timeout(None, connect=group.connect_seconds)  # all others are `Deadlines`
        self._headers = {name.lower(): value for name, value in group.headers.items()}
        if group.key:
            self._headers["authorization"] = f"Bearer {group.key}"

    @property
    def standing(self) -> Standing:
        return Standing(self.outstanding, self._group.max_concurrent, self.up, self._rests_until)

    @property
    def state(self) -> UpstreamState:
        return UpstreamState(
            self.url,
            self.model,
            self.up,
            self._doing,
            self.outstanding,
            self._group.max_concurrent,
            self._requests,
            self._failures,
        )

    @asynccontextmanager
    async def answer(self, path: str, body: bytes, headers: list[tuple[str, str]]) -> AsyncIterator[UpstreamAnswer]:
        """What it answers to a POST, from its headers on; leaving closes the connection unless it was read to its end.

        Raises `UpstreamFailed`, `UpstreamRefused` for any status but success, `ShuttingDown`.
        """
        self._requests += 1
        self._metrics.requests.inc()
        ours = {name: value for name, value in headers if name not in self._headers}
        request = self._client.build_request(
            "POST", self._address(path), content=body, headers=ours | self._headers, timeout=self._timeout
        )
        response = await self._sent(request)
        try:
            if not response.is_success:
                raise await self._refused(response)
            self._failures_in_a_row = 0
            yield UpstreamAnswer(self.name, response, self._group, self._deadlines, self._heard)
        finally:
            await response.aclose()

    def take(self) -> None:
        """One more request is on its way to it."""
        self.outstanding += 1
        self._metrics.outstanding.set(self.outstanding)

    def give_back(self) -> None:
        self.outstanding -= 1
        self._metrics.outstanding.set(self.outstanding)

    def troubled(self, error: UpstreamFailed | UpstreamRefused) -> None:
        """Notes that a request was not answered, so that others are asked first for a while."""
        if isinstance(error, UpstreamRefused) and error.status not in ELSEWHERE:
            return
        reason = error.reason if isinstance(error, UpstreamFailed) else "busy"
        self._failures += 1
        self._metrics.troubles[reason].inc()
        now = asyncio.get_running_loop().time()
        if now >= self._rests_until:  # else it is one more request of those that failed together
            self._failures_in_a_row += 1
        wait = rest_seconds(self._failures_in_a_row)
        if isinstance(error, UpstreamRefused) and error.headers.get("retry-after", "").isdigit():
            wait = min(MOST_REST_SECONDS, float(error.headers["retry-after"]))
        self._rests_until = now + wait
        if reason == "unreachable":
            self._set_up(False, str(error))
        elif reason != "busy":
            log.warning("%s: %s", self._model_id, error)

    async def watch(self) -> None:
        """Asks the server time and again whether it is there. A task."""
        while True:
            try:
                await self._check()
            except Exception:
                log.exception("%s: %s could not be checked", self._model_id, self.name)
            wait = self._group.check_seconds if self.up else min(CHECK_SECONDS_WHEN_DOWN, self._group.check_seconds)
            self._hurry.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._hurry.wait()
                await asyncio.sleep(min(CHECK_SECONDS_WHEN_DOWN, wait))
            except TimeoutError:
                pass

    async def _sent(self, request: httpx.Request) -> httpx.Response:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            response = await self._deadlines.within(
                self._group.first_byte_seconds, self._client.send(request, stream=True)
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UpstreamFailed(f"{self.name} cannot be reached", "unreachable", sent=False) from error
        except TimeoutError as error:
            seconds = self._group.first_byte_seconds
            raise UpstreamFailed(f"{self.name} answered nothing for {seconds:g} s", "silent") from error
        except (httpx.HTTPError, RuntimeError) as error:  # httpx has RuntimeError for a client that is closed
            if self._deadlines.ended:
                raise ShuttingDown from None
            raise UpstreamFailed(f"{self.name} closed the connection before it answered", "cut") from error
        self._metrics.answer_seconds.observe(loop.time() - started)
        return response

    async def _refused(self, response: httpx.Response) -> UpstreamFailed | UpstreamRefused:
        status = response.status_code
        if status in OWN_FAULT:
            return UpstreamFailed(
                f"{self.name} does not take this gateway's key (status {status})", "refused", sent=False
            )
        if status < 400:
            return UpstreamFailed(f"{self.name} answered with status {status}", "refused", sent=False)
        answer = UpstreamAnswer(self.name, response, self._group, self._deadlines, self._heard)
        return await refusal(answer, status)

    def _heard(self) -> None:
        """Something of an answer came."""
        self._heard_at = asyncio.get_running_loop().time()

    async def _check(self) -> None:
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                status, body = await self._model_list()
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self._set_up(False, f"{self.name} cannot be reached")
        except (httpx.HTTPError, TimeoutError):
            self._misses += 1
            if self._misses >= MISSES and self._heard_at < began - CHECK_TIMEOUT_SECONDS:
                self._set_up(False, f"{self.name} does not answer")
        else:
            self._misses = 0
            if status in OWN_FAULT or status >= 500:
                why = "does not take this gateway's key" if status in OWN_FAULT else "is ill"
                self._set_up(False, f"{self.name} {why} (status {status})")
            else:
                self.listed = listed_model(body, self.model)
                self._set_up(True, "up")
        if not self.checked:
            self.checked = True
            self._changed()

    async def _model_list(self) -> tuple[int, bytes]:
        body = b""
        async with self._client.stream(
            "GET", f"{self.url}/models", headers=self._headers, timeout=self._timeout
        ) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MOST_LIST_BYTES:
                    break
        return response.status_code, body

    def _set_up(self, up: bool, doing: str) -> None:
        self._metrics.up.set(up)
        if up != self.up or not self.checked:
            log.log(logging.INFO if up else logging.WARNING, "%s: %s %s", self._model_id, self.name, _news(up, doing))
        changed, self.up, self._doing = up != self.up, up, doing
        if changed:
            self._failures_in_a_row, self._rests_until = 0, 0.0
            self._hurry.set()
            self._changed()

    def _address(self, path: str) -> str:
        """Tokenizing and Cohere's reranking stand beside `/v1` with vLLM and SGLang, everything else within it."""
        outside = path in ("/tokenize", "/detokenize") or path.startswith("/v2/")
        return (self.url.removesuffix("/v1") if outside else self.url) + path


def server_name(url: str) -> str:
    """Its host, port and path."""
    return url.partition("://")[2]


def _news(up: bool, doing: str) -> str:
    return "is up" if up else f"is down: {doing}"
