"""Clients that leave: their rows are freed, at every stage, and nobody else notices."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartServer
from tests.fim_model import write_fim_model

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
            tasks.append(
                asyncio.create_task(_request(server.url, "/v1/chat/completions", ENDLESS | {"stream": stream}))
            )
            await until(stage)
        for task in tasks:
            task.cancel()
        await until(idle)
        assert await metric(client, "mlx_gateway_unfinished_requests_total{") == 2
        answer = await client.post("/v1/chat/completions", json=ENDLESS | {"max_tokens": 2})
        assert answer.json()["usage"]["completion_tokens"] == 2


async def _request(url: str, path: str, body: dict[str, Any]) -> None:
    async with (
        httpx.AsyncClient(base_url=url, timeout=60) as client,
        client.stream("POST", path, json=body) as response,
    ):
        async for _ in response.aiter_raw():
            pass


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_ends_all_prompts_of_a_completion(start_server: StartServer, stream: bool) -> None:
    """One prompt is computed, the other waits for its place."""
    server = start_server(ENGINE_MAX_RUNNING="1")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def rows() -> tuple[float, float]:
            return (
                await metric(client, "vllm:num_requests_running"),
                await metric(client, "vllm:num_requests_waiting"),
            )

        async def both_there() -> bool:
            return await rows() == (1, 1)

        async def idle() -> bool:
            return await rows() == (0, 0)

        endless = {name: value for name, value in ENDLESS.items() if name != "messages"}
        body = endless | {"prompt": ["Once upon a time", "Long ago"], "max_tokens": 8000, "stream": stream}
        task = asyncio.create_task(_request(server.url, "/v1/completions", body))
        await until(both_there)
        task.cancel()
        await until(idle)
        assert await metric(client, "mlx_gateway_unfinished_requests_total{") == 2


async def test_keystrokes_go_first_and_leave_at_once(
    start_server: StartServer, tmp_path_factory: pytest.TempPathFactory, demo_folder: Path
) -> None:
    """An editor asks at each key and leaves at the next. Who fills a gap is of the interactive class, however long."""
    folder = tmp_path_factory.mktemp("models") / "filler"
    write_fim_model(folder, of=demo_folder)
    server = start_server("--model", str(folder), ENGINE_MAX_RUNNING="1")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def running() -> bool:
            return await metric(client, "vllm:num_requests_running") == 1

        async def all_waiting() -> bool:
            name = 'mlx_gateway_requests_waiting{model_name="filler",priority="interactive"}'
            return await metric(client, name) == 3

        async def idle() -> bool:
            waiting = await metric(client, "mlx_gateway_requests_waiting{")
            return not await running() and waiting == 0

        gap = {"model": "filler", "prompt": "def f():", "suffix": "return", "logit_bias": {"300": 100}, "stream": True}
        keys = [asyncio.create_task(_request(server.url, "/v1/fim/completions", gap))]
        await until(running)
        keys += [asyncio.create_task(_request(server.url, "/v1/fim/completions", gap)) for _ in range(3)]
        await until(all_waiting)
        for key in keys:
            key.cancel()
        await until(idle)
        assert await metric(client, "mlx_gateway_unfinished_requests_total{") == 4
