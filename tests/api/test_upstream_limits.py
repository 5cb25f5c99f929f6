"""Clients that leave, servers that are full, and a gateway that stops."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.test_disconnect import metric, until
from tests.conftest import StartServer
from tests.scripted_upstream import CHUNK, DONE, Exchange, ScriptedUpstream, scripted_upstream
from tests.sse import read_stream

BODY: dict[str, Any] = {"model": "held", "messages": []}
HELD = "mlx_gateway_upstream_outstanding_requests"
WAITING = "mlx_gateway_upstream_waiting_requests"


class Gate:
    """Holds every answer until it is opened; streams have begun by then."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.left = threading.Semaphore(0)

    def hold(self, exchange: Exchange) -> None:
        if exchange.body.get("until_left"):
            if exchange.stream:
                exchange.begin_stream()
                exchange.send(CHUNK)
            exchange.until_left()
            self.left.release()
            return
        if exchange.stream:
            exchange.begin_stream()
            exchange.send(CHUNK)
            self.open.wait(60)
            exchange.send(DONE)
        else:
            self.open.wait(60)
            exchange.answer()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def upstream(gate: Gate) -> Iterator[ScriptedUpstream]:
    with scripted_upstream({"held": gate.hold}) as upstream:
        yield upstream


def configuration(folder: Path, upstream: ScriptedUpstream, more: str = "") -> str:
    file = folder / "config.toml"
    file.write_text(f'[[models]]\nid = "held"\n[[models.upstreams]]\nurls = ["{upstream.url}"]\n{more}')
    return str(file)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_server_is_let_go_when_the_client_leaves(
    start_server: StartServer, tmp_path: Path, upstream: ScriptedUpstream, gate: Gate, stream: bool
) -> None:
    server = start_server("--config", configuration(tmp_path, upstream), ready=False)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        body = BODY | {"stream": stream, "until_left": True}
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))

        async def held() -> bool:
            return await metric(client, HELD) == 1

        async def let_go() -> bool:
            return await metric(client, HELD) == 0

        await until(held)
        asking.cancel()
        assert await asyncio.to_thread(gate.left.acquire, timeout=30)
        await until(let_go)


async def test_a_full_server_has_others_wait_their_turn(
    start_server: StartServer, tmp_path: Path, upstream: ScriptedUpstream, gate: Gate
) -> None:
    """One at a time, one more may wait, and the next is refused; who leaves gives up the place."""
    file = configuration(tmp_path, upstream, "max_concurrent = 1\n")
    server = start_server("--config", file, ready=False, ENGINE_MAX_WAITING="1")
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

        async def waits() -> bool:
            return await metric(client, WAITING) == 1

        async def nobody_waits() -> bool:
            return await metric(client, WAITING) == 0

        async def runs() -> bool:
            return await metric(client, HELD) == 1

        first = asyncio.create_task(read_stream(client, BODY))
        await until(runs)
        leaving = asyncio.create_task(client.post("/v1/chat/completions", json=BODY))
        await until(waits)
        refused = await client.post("/v1/chat/completions", json=BODY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "server_overloaded")
        assert int(refused.headers["retry-after"]) > 0
        leaving.cancel()
        await until(nobody_waits)
        second = asyncio.create_task(client.post("/v1/chat/completions", json=BODY))
        await until(waits)
        assert upstream.asked("held") == 1
        gate.open.set()
        assert (await first).ended_with_done
        assert (await second).status_code == 200
        assert upstream.asked("held") == 2


async def test_a_server_that_stops_tells_its_clients(
    start_server: StartServer, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    file = configuration(tmp_path, upstream, "max_concurrent = 1\n")
    server = start_server("--config", file, ready=False, SERVER_SHUTDOWN_GRACE_SECONDS="0")
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        streaming = asyncio.create_task(read_stream(client, BODY))

        async def runs() -> bool:
            return await metric(client, HELD) == 1

        async def waits() -> bool:
            return await metric(client, WAITING) == 1

        await until(runs)
        waiting = asyncio.create_task(client.post("/v1/chat/completions", json=BODY))
        await until(waits)
        assert await asyncio.to_thread(server.stop) == 0
        stream = await streaming
        assert [error["code"] for error in stream.errors] == ["shutting_down"]
        assert stream.ended_with_done
        assert (await waiting).json()["error"]["code"] == "shutting_down"


async def test_a_server_that_comes_back_is_asked_again(start_server: StartServer, tmp_path: Path) -> None:
    with scripted_upstream({}) as upstream:
        file = configuration(tmp_path, upstream, "check_seconds = 0.05\n")
    server = start_server("--config", file, ready=False)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

        async def up() -> bool:
            return await metric(client, "mlx_gateway_upstream_up") == 1

        server.wait_for_log("is down")
        down = await client.post("/v1/chat/completions", json=BODY)
        assert (down.status_code, down.json()["error"]["code"]) == (503, "model_unavailable")
        assert down.headers["retry-after"] == "1"
        assert (await client.get("/health/ready")).json()["ready"]  # it is no fault of this server
        with scripted_upstream({}, upstream.port):
            await until(up)
            assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200
