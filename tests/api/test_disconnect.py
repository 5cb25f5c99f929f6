"""Clients that leave: their rows are freed, at every stage, and nobody else notices."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from tests.conftest import StartServer

LONG = {"model": "tiny", "messages": [{"role": "user", "content": "Hello " * 400}], "temperature": 0}
ENDLESS = {
    "model": "SmolLM2-135M-Instruct",
    "messages": [{"role": "user", "content": "Write a very long story."}],
    "temperature": 0,
    "logit_bias": {"2": -100},
}
"""Minutes of work: it ends in time only if it is cancelled."""


async def metric(client: httpx.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(100):
        while not await condition():  # noqa: ASYNC110  (the condition is in another process)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_frees_the_rows(start_server: StartServer, stream: bool) -> None:
    """One request runs, one waits for its place; both clients close their connections."""
    server = start_server(ENGINE_MAX_RUNNING="1")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def running() -> bool:
            return await metric(client, "vllm:num_requests_running") == 1

        async def waiting() -> bool:
            return await metric(client, "vllm:num_requests_waiting") == 1

        async def idle() -> bool:
            return not await running() and not await waiting()

        tasks = []
        for stage in (running, waiting):
            tasks.append(asyncio.create_task(_request(server.url, stream)))
            await until(stage)
        for task in tasks:
            task.cancel()
        await until(idle)
        assert await metric(client, "mlx_gateway_unfinished_requests_total{") == 2
        answer = await client.post("/v1/chat/completions", json=ENDLESS | {"max_tokens": 2})
        assert answer.json()["usage"]["completion_tokens"] == 2


async def _request(url: str, stream: bool) -> None:
    async with (
        httpx.AsyncClient(base_url=url, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json=ENDLESS | {"stream": stream}) as response,
    ):
        async for _ in response.aiter_raw():
            pass
