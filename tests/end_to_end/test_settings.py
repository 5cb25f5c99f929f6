"""Settings that show in what the server says and does, and what its log must not hold."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.test_disconnect import metric, until
from tests.conftest import Server, StartServer


async def test_model_and_hardware_settings_take_effect(start_server: StartServer, tiny_folder: Path) -> None:
    server = start_server(
        "--model",
        str(tiny_folder),
        MODEL_ID="my-model",
        MODEL_CONTEXT_TOKENS="100",
        HARDWARE_DTYPE="bfloat16",
        HARDWARE_BLAS_THREADS="1",
        LOG_FORMAT="text",
    )
    ready = server.wait_for_log(" is ready after ")
    assert "1 threads" in ready
    assert "bfloat16 weights" in ready
    assert not ready.startswith("{")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        (model,) = (await client.get("/v1/models")).json()["data"]
        assert (model["id"], model["context_length"]) == ("my-model", 100)
        body = {"model": "my-model", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
        usage = (await client.post("/v1/chat/completions", json=body)).json()["usage"]
        assert usage["total_tokens"] == 100


async def test_prompts_and_answers_stay_out_of_the_log(start_server: StartServer, tiny_folder: Path) -> None:
    """At the most talkative level, for answers, streams and refusals alike."""
    server = start_server("--model", str(tiny_folder), "--log-level", "debug")
    secret = "xylophone-7391"
    messages = [{"role": "user", "content": f"Remember {secret}"}]
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        body = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 20}
        answer = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]["content"]
        await client.post("/v1/chat/completions", json=body | {"stream": True})
        for wrong in ({"max_tokens": -1}, {"messages": [{"role": "user", "content": secret * 500}]}):
            assert (await client.post("/v1/chat/completions", json=body | wrong)).status_code == 400
        await client.get("/health/live")
    server.wait_for_log("GET /health/live 200")
    entries = [json.loads(line) for line in server.log.splitlines()]
    assert {"debug", "info"} <= {entry["level"] for entry in entries}
    assert secret not in server.log
    assert answer not in server.log
    assert "Remember" not in server.log


KV_CACHE_BYTES = 'mlx_gateway_memory_bytes{owner="kv_cache"}'


ENDLESS: dict[str, Any] = {
    "model": "endless",
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "logit_bias": {"2": -100},
}


@pytest.fixture
def endless(tiny_folder: Path, tmp_path: Path) -> str:
    """The tiny model with a context of minutes: an answer ends in time only if its client leaves."""
    folder = shutil.copytree(tiny_folder, tmp_path / "endless")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 500_000}))
    return str(folder)


@asynccontextmanager
async def running(client: httpx.AsyncClient, **fields: Any) -> AsyncIterator[None]:
    """An answer of the endless model, from its first text on."""
    body = ENDLESS | {"stream": True} | fields
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.aiter_lines()
        async for line in lines:
            if '"content":"' in line and '"content":""' not in line:
                break
        yield
    await until(lambda: _is(client, "vllm:num_requests_running", 0))


async def test_who_is_served_when_is_the_operators_to_say(start_server: StartServer, endless: str) -> None:
    """On one row: what counts as interactive, and that whoever waits long goes first."""
    server = start_server(
        "--model", endless, ENGINE_MAX_RUNNING="1", ENGINE_INTERACTIVE_TOKENS="2", ENGINE_AGEING_SECONDS="0.001"
    )
    served: list[str] = []
    async with httpx.AsyncClient(base_url=server.url, timeout=100) as client:

        async def one(name: str, tokens: int, **headers: str) -> None:
            headers |= {"x-session-id": name}
            body = ENDLESS | {"max_tokens": tokens}
            assert (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
            served.append(name)

        async with running(client):
            waiting = [asyncio.create_task(one("background", 1, **{"x-priority": "background"}))]
            await until(lambda: _waiting(client, "background", 1))
            waiting.append(asyncio.create_task(one("of three tokens", 3)))
            await until(lambda: _waiting(client, "normal", 1))
            waiting.append(asyncio.create_task(one("of two tokens", 2)))
            await until(lambda: _waiting(client, "interactive", 1))
        await asyncio.gather(*waiting)
    assert served == ["background", "of three tokens", "of two tokens"]


async def test_memory_is_set_aside_for_the_expected_answer(start_server: StartServer, endless: str) -> None:
    """Whatever more a request names with max_tokens; less where it names less."""
    server = start_server("--model", endless, ENGINE_EXPECTED_ANSWER_TOKENS="2000")
    held: dict[int | None, float] = {}
    async with httpx.AsyncClient(base_url=server.url, timeout=100) as client:
        for max_tokens in (500, None, 2000, 20_000):
            async with running(client, max_tokens=max_tokens):
                held[max_tokens] = await metric(client, KV_CACHE_BYTES)
    assert 0 < held[500] < held[None] == held[2000] == held[20_000]


@pytest.mark.parametrize(("stall_budget", "least", "most"), [("1", 1, 16), ("1000", 100, 1000)])
async def test_chunks_are_as_long_as_the_stall_budget_allows(
    start_server: StartServer, endless: str, stall_budget: str, least: int, most: int
) -> None:
    """Beside a running answer: the shortest where it may wait for nothing, the whole prompt where it may wait long."""
    server = start_server("--model", endless, ENGINE_STALL_BUDGET=stall_budget, ENGINE_PREFILL_CHUNK_TOKENS="1000")
    prompt = [{"role": "user", "content": "All work and no play makes Jack a dull boy. " * 15}]
    async with httpx.AsyncClient(base_url=server.url, timeout=100) as client, running(client):
        answer = await client.post("/v1/chat/completions", json=ENDLESS | {"messages": prompt, "max_tokens": 1})
        assert answer.json()["usage"]["prompt_tokens"] > 120
        assert least <= await metric(client, "mlx_gateway_prefill_chunk_tokens") <= most


async def test_without_speculation_nothing_is_drafted(
    start_server: StartServer, tiny_server: Server, tiny_folder: Path
) -> None:
    """Of an answer that says one thing all the time, which is the same either way."""
    plain_server = start_server("--model", str(tiny_folder), ENGINE_SPECULATION="false")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 200}
    answers = []
    for server, drafts in ((plain_server, False), (tiny_server, True)):
        async with httpx.AsyncClient(base_url=server.url, timeout=100) as client:
            before = await metric(client, "vllm:spec_decode_num_draft_tokens_total")
            answer = await client.post("/v1/chat/completions", json=body | {"logit_bias": {"5000": 100}})
            answers.append(answer.json()["choices"][0]["message"]["content"])
            assert (await metric(client, "vllm:spec_decode_num_draft_tokens_total") > before) == drafts
    assert answers[0] == answers[1]
    assert answers[0]


async def _is(client: httpx.AsyncClient, name: str, value: float) -> bool:
    return await metric(client, name) == value


async def _waiting(client: httpx.AsyncClient, priority: str, rows: int) -> bool:
    name = f'mlx_gateway_requests_waiting{{model_name="endless",priority="{priority}"}}'
    return await metric(client, name) == rows
