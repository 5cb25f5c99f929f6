"""Places on servers, and the line for them; nothing is sent."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.config import ModelConfig, UpstreamConfig
from gateway.errors import Overloaded, ShuttingDown, UpstreamFailed, UpstreamsDown
from gateway.model_pool.upstream import Upstream
from gateway.model_pool.upstream_model import UpstreamModel
from gateway.observability.metrics import Metrics


def model(*, servers: int = 1, max_concurrent: int = 1, max_waiting: int = 10) -> UpstreamModel:
    urls = [f"http://10.0.0.{number}:8000/v1" for number in range(servers)]
    offered = ModelConfig(id="big", upstreams=[UpstreamConfig(urls, max_concurrent=max_concurrent)])
    return UpstreamModel("big", offered, max_waiting, Metrics())


class Requests:
    """That hold their places until they are ended; `began` are their names in the order they got them."""

    def __init__(self, model: UpstreamModel) -> None:
        self.began: list[str] = []
        self.servers: dict[str, Upstream] = {}
        self._model = model
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, *names: str) -> None:
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._hold(name))
            await turns()

    def tell_to_end(self, name: str) -> None:
        self._ends[name].set()

    async def end(self, name: str) -> None:
        self.tell_to_end(name)
        await self._tasks[name]
        await turns()

    async def _hold(self, name: str) -> None:
        async with self._model.lease(name, ()) as upstream:
            self.began.append(name)
            self.servers[name] = upstream
            await self._ends[name].wait()

    def cancel(self, name: str) -> None:
        self._tasks[name].cancel()

    async def outcome(self, name: str) -> BaseException | None:
        (outcome,) = await asyncio.gather(self._tasks[name], return_exceptions=True)
        return outcome


async def turns() -> None:
    """Lets every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_places_are_given_in_the_order_they_were_asked_for() -> None:
    requests = Requests(model())
    await requests.start("a", "b", "c", "d")
    assert requests.began == ["a"]
    for name in "abcd":
        await requests.end(name)
    assert requests.began == ["a", "b", "c", "d"]


@pytest.mark.parametrize("turn", range(6))
async def test_no_place_is_lost_whenever_a_client_leaves(turn: int) -> None:
    requests = Requests(model())
    await requests.start("a", "b")
    requests.tell_to_end("a")
    for _ in range(turn):
        await asyncio.sleep(0)
    requests.cancel("b")
    await requests.outcome("b")
    await requests.outcome("a")
    await requests.start("c")
    assert requests.began[-1] == "c"
    assert requests.servers["c"].outstanding == 1
    await requests.end("c")
    assert requests.servers["c"].outstanding == 0


async def test_a_line_that_is_full_takes_nobody() -> None:
    requests = Requests(model(max_waiting=1))
    await requests.start("a", "b", "c")
    assert isinstance(await requests.outcome("c"), Overloaded)
    await requests.end("a")
    await requests.end("b")


async def test_who_waits_is_told_when_the_server_stops_or_all_are_down() -> None:
    stopping = model()
    requests = Requests(stopping)
    await requests.start("a", "b")
    stopping.shut_down(ShuttingDown())
    assert isinstance(await requests.outcome("b"), ShuttingDown)
    await requests.end("a")

    falling = model()
    requests = Requests(falling)
    await requests.start("a", "b")
    requests.servers["a"].troubled(UpstreamFailed("10.0.0.0:8000/v1 cannot be reached", "unreachable", sent=False))
    down = await requests.outcome("b")
    assert isinstance(down, UpstreamsDown)
    assert "10.0.0.0:8000/v1 cannot be reached" in str(down)
    await requests.end("a")


async def test_a_server_that_was_tried_is_not_given_again() -> None:
    both = model(servers=2, max_concurrent=0)
    async with AsyncExitStack() as held:
        first = await held.enter_async_context(both.lease("s", ()))
        second = await held.enter_async_context(both.lease("s", {first.name}))
        assert first is not second
        with pytest.raises(UpstreamsDown):
            await held.enter_async_context(both.lease("s", {first.name, second.name}))


async def test_a_session_comes_back_to_its_server() -> None:
    fleet = model(servers=4, max_concurrent=0)
    for session in map(str, range(20)):
        async with fleet.lease(session, ()) as first:
            pass
        async with fleet.lease("another", ()), fleet.lease(session, ()) as again:
            assert again is first
