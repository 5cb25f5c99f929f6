"""A model that runs on other servers. Belongs to the event loop."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from gateway.config import ModelConfig
from gateway.errors import GatewayError, Overloaded, ShuttingDown, UpstreamsDown
from gateway.model_pool.deadlines import Deadlines
from gateway.model_pool.model_progress import ModelState
from gateway.model_pool.served_model import Purpose
from gateway.model_pool.upstream import CHECK_SECONDS_WHEN_DOWN, Upstream, UpstreamState, server_name
from gateway.model_pool.upstream_choice import choose
from gateway.observability.metrics import Metrics

MOST_SESSIONS = 10_000
"""Remembered with the server that each was on last."""

KEEP_IDLE_SECONDS = 4.0
"""An idle connection is kept for less than the five seconds after which uvicorn, so vLLM and SGLang, closes it."""

RETRY_SECONDS = 5
"""Told to clients that find every server full."""


@dataclass(eq=False, frozen=True, slots=True)
class Waiter:
    """A request that wants one of the servers it has not `tried`."""

    session: str
    tried: Collection[str]
    place: "asyncio.Future[Upstream]"


class UpstreamModel:
    """Lists the model as if it were here, and finds each request the server that shall have it."""

    text = None
    architecture = ""
    weight_bytes = 0
    fraction = 1.0

    def __init__(self, model_id: str, offered: ModelConfig, max_waiting: int, metrics: Metrics) -> None:
        self.model_id = model_id
        self.created = int(time.time())
        self._most_context = offered.context_tokens
        self._max_waiting = max_waiting
        self._waiting = metrics.upstreams.waiting.labels(model_id)
        self._deadlines = Deadlines()
        self._line: list[Waiter] = []
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._client = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=KEEP_IDLE_SECONDS),
            headers={"user-agent": "mlx-gateway", "accept-encoding": "identity"},
        )
        self._upstreams: dict[str, Upstream] = {}
        for group in offered.upstream_groups:
            for url in group.urls:
                name = server_name(url)
                series = metrics.upstreams.of(model_id, name)
                self._upstreams[name] = Upstream(
                    model_id, url, group, self._client, self._deadlines, series, self._serve_line
                )

    @property
    def failure(self) -> GatewayError | None:
        """Why no request can be served at present, if none can."""
        return None if any(one.up for one in self._upstreams.values()) else self._all_down()

    @property
    def asked(self) -> bool:
        """Every server has answered, or not answered, once."""
        return all(one.checked for one in self._upstreams.values())

    @property
    def state(self) -> ModelState:
        if self.failure:
            return ModelState.FAILED
        return ModelState.READY if self.asked else ModelState.LOADING

    @property
    def doing(self) -> str:
        up = sum(one.up for one in self._upstreams.values())
        return str(self.failure or f"runs on {up} of {len(self._upstreams)} servers")

    @property
    def context_tokens(self) -> int | None:
        """The least that any server says, or the configuration if that is less."""
        known = [one.listed.context_tokens for one in self._upstreams.values() if one.listed.context_tokens]
        return min([*known, *([self._most_context] if self._most_context else [])], default=None)

    @property
    def purpose(self) -> Purpose | None:
        said = next((one.listed.purpose for one in self._upstreams.values() if one.listed.purpose), None)
        return Purpose(said) if said in tuple(Purpose) else None

    @property
    def dimensions(self) -> int | None:
        return next((one.listed.dimensions for one in self._upstreams.values() if one.listed.dimensions), None)

    @property
    def upstreams(self) -> list[UpstreamState]:
        return [one.state for one in self._upstreams.values()]

    async def run(self) -> None:
        """Watches the servers. A task."""
        try:
            async with asyncio.TaskGroup() as watches:
                for upstream in self._upstreams.values():
                    watches.create_task(upstream.watch())
        finally:
            await self._client.aclose()

    def shut_down(self, error: GatewayError) -> None:
        """Ends every request of this model."""
        self._deadlines.end()
        self._serve_line()

    @asynccontextmanager
    async def lease(self, session: str, tried: Collection[str]) -> AsyncIterator[Upstream]:
        """A server for one request, which was not `tried` before; waits for one that has room.

        Raises `UpstreamsDown` if none is left, `Overloaded` if too many wait, `ShuttingDown`.
        """
        upstream = await self._place(session, tried)
        try:
            yield upstream
        finally:
            self._give_back(upstream)

    async def _place(self, session: str, tried: Collection[str]) -> Upstream:
        waiter = Waiter(session, tried, asyncio.get_running_loop().create_future())
        self._line.append(waiter)
        self._serve_line()
        if not waiter.place.done() and len(self._line) > self._max_waiting:
            self._line.remove(waiter)
            self._waiting.set(len(self._line))
            raise Overloaded(len(self._line), self._max_waiting, RETRY_SECONDS)
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter in self._line:
                self._line.remove(waiter)
                self._waiting.set(len(self._line))
            if waiter.place.done() and not waiter.place.cancelled() and waiter.place.exception() is None:
                self._give_back(waiter.place.result())  # the place came while the client left
            raise

    def _serve_line(self) -> None:
        """Gives every waiter its server, in the order they came, or tells why there is none."""
        still: list[Waiter] = []
        for waiter in self._line:
            if waiter.place.done():
                continue  # its client has left
            left = {name: one for name, one in self._upstreams.items() if one.up and name not in waiter.tried}
            if self._deadlines.ended:
                waiter.place.set_exception(ShuttingDown())
            elif not left:
                waiter.place.set_exception(self._all_down())
            elif chosen := self._chosen(waiter.session, left):
                self._take(waiter.session, chosen)
                waiter.place.set_result(chosen)
            else:
                still.append(waiter)
        self._line = still
        self._waiting.set(len(still))

    def _chosen(self, session: str, left: dict[str, Upstream]) -> Upstream | None:
        standings = {name: one.standing for name, one in left.items()}
        now = asyncio.get_running_loop().time()
        name = choose(standings, now, session, self._homes.get(session))
        return None if name is None else left[name]

    def _take(self, session: str, upstream: Upstream) -> None:
        upstream.take()
        self._homes[session] = upstream.name
        self._homes.move_to_end(session)
        if len(self._homes) > MOST_SESSIONS:
            self._homes.popitem(last=False)

    def _give_back(self, upstream: Upstream) -> None:
        upstream.give_back()
        self._serve_line()

    def _all_down(self) -> UpstreamsDown:
        why = "; ".join(one.state.doing for one in self._upstreams.values())
        return UpstreamsDown(self.model_id, why, math.ceil(CHECK_SECONDS_WHEN_DOWN))
