"""Models that share a memory in which not all of them fit, in real servers with tiny models."""

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.model_pool.usage_history import UsageHistory
from gateway.model_store.sources import read_import
from gateway.model_store.store import ModelStore
from tests.conftest import Server, StartServer

TINY_MIB = 25


@pytest.fixture
def folders(tiny_folder: Path, tmp_path: Path) -> list[Path]:
    return [shutil.copytree(tiny_folder, tmp_path / name) for name in ("a", "b", "c")]


def serve(start_server: StartServer, folders: list[Path], budget_mib: int, **settings: Any) -> Server:
    """All of them, loaded at start as there is room, else on demand."""
    arguments = [argument for folder in folders for argument in ("--model", str(folder))]
    return start_server(*arguments, **settings, HARDWARE_MEMORY_BYTES=str(budget_mib * 2**20))


async def chat(client: httpx.AsyncClient, model: str, tokens: int = 8) -> httpx.Response:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    return await client.post("/v1/chat/completions", json=body | {"max_tokens": tokens})


async def states(client: httpx.AsyncClient) -> dict[str, str]:
    models = (await client.get("/admin/models")).json()["models"]
    return {model["id"]: model["state"] for model in models}


async def settled(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while (await client.get("/health/ready")).status_code != 200:  # noqa: ASYNC110  (no event to wait for)
            await asyncio.sleep(0.02)


async def brought_in(client: httpx.AsyncClient, *models: str) -> None:
    """Which ones come in first at the start depends on whose files are read first."""
    await settled(client)
    for model in models:
        assert (await client.post(f"/admin/models/{model}/load?wait=true")).status_code == 200


async def test_the_least_recently_used_makes_room(
    start_server: StartServer, folders: list[Path], tmp_path: Path
) -> None:
    server = serve(start_server, folders, int(2.9 * TINY_MIB))
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await settled(client)
        found = await states(client)
        second, used_last = (model for model, state in found.items() if state == "ready")
        (left_out,) = (model for model, state in found.items() if state == "on disk")
        assert f"{left_out} stays on disk: there is no room" in server.log
        asked = (second, used_last, left_out)
        answers = [(await chat(client, model)).json()["choices"][0]["message"]["content"] for model in asked]
        assert len(set(answers)) == 1  # three copies of one model
        assert await states(client) == {second: "on disk", used_last: "ready", left_out: "ready"}
        metrics = (await client.get("/metrics")).text
        assert f'mlx_gateway_model_evictions_total{{model_name="{second}",reason="memory"}} 1.0' in metrics


async def test_pinned_models_stay_and_those_who_lack_the_room_are_told(
    start_server: StartServer, folders: list[Path], tmp_path: Path
) -> None:
    server = serve(start_server, folders, int(2.9 * TINY_MIB))
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await brought_in(client, "a", "b")
        for model in ("a", "b"):
            assert (await client.post(f"/admin/models/{model}/pin")).json()["pinned"]
        refused = await chat(client, "c")
        assert refused.status_code == 503
        error = refused.json()["error"]
        assert error["code"] == "model_does_not_fit"
        assert "these are pinned: a (" in error["message"]
        assert (await chat(client, "a")).status_code == 200
        await client.post("/admin/models/a/unpin")
        assert (await chat(client, "c")).status_code == 200
        assert await states(client) == {"a": "on disk", "b": "ready", "c": "ready"}


async def test_three_models_in_room_for_two_alternate(
    start_server: StartServer, folders: list[Path], tmp_path: Path
) -> None:
    """Eight clients each, always asking: none fails, none starves, and those who wait hear of it."""
    server = serve(
        start_server, folders, int(2.9 * TINY_MIB), POOL_TURN_SECONDS="0.2", SERVER_FIRST_EVENT_SECONDS="0.05"
    )
    served: dict[str, int] = dict.fromkeys("abc", 0)
    longest: dict[str, float] = dict.fromkeys("abc", 0.0)
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        await settled(client)
        end = time.monotonic() + 8

        async def ask(model: str) -> None:
            while time.monotonic() < end:
                started = time.monotonic()
                answer = await chat(client, model)
                assert answer.status_code == 200, answer.text
                served[model] += 1
                longest[model] = max(longest[model], time.monotonic() - started)

        await asyncio.gather(*(ask(model) for model in "abc" for _ in range(8)))
        assert min(served.values()) >= 8, served
        assert max(longest.values()) < 8, longest
        loads = (await client.get("/metrics")).text
        assert 'mlx_gateway_model_loads_total{model_name="c",outcome="ready"}' in loads


async def test_who_waits_hears_why(start_server: StartServer, folders: list[Path], tmp_path: Path) -> None:
    server = serve(
        start_server,
        folders[:2],
        int(1.9 * TINY_MIB),
        POOL_TURN_SECONDS="6",
        SERVER_FIRST_EVENT_SECONDS="0.05",
        SERVER_KEEP_ALIVE_SECONDS="0.2",
    )
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        await brought_in(client, "a")
        running = [asyncio.create_task(chat(client, "a", 200)) for _ in range(2)]
        body = {"model": "b", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": True}
        while (await client.get("/admin/models/a")).json()["leases"] == 0:  # noqa: ASYNC110  (no event to wait for)
            await asyncio.sleep(0.01)

        async def busy() -> None:
            while not done.is_set():
                await chat(client, "a", 50)

        done = asyncio.Event()
        keeping = asyncio.create_task(busy())
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = [line async for line in answer.aiter_lines()]
        done.set()
        assert any("waiting for room in memory beside a; 0 requests wait before this one" in line for line in lines)
        assert lines[-2] == "data: [DONE]"
        assert all(answer.status_code == 200 for answer in await asyncio.gather(*running))
        await keeping


async def test_a_long_answer_is_set_aside_for_others_and_loses_no_token(
    start_server: StartServer, folders: list[Path], tmp_path: Path
) -> None:
    server = serve(
        start_server, folders[:2], int(1.9 * TINY_MIB), POOL_TURN_SECONDS="0.1", SERVER_FIRST_EVENT_SECONDS="0.05"
    )
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        await brought_in(client, "a")
        body: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 400}
        body |= {"temperature": 1.0, "seed": 7, "logit_bias": {"2": -100}}
        alone = (await client.post("/v1/chat/completions", json=body)).json()
        long = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        while (await client.get("/admin/models/a")).json()["leases"] == 0:  # noqa: ASYNC110  (no event to wait for)
            await asyncio.sleep(0.01)
        others = await asyncio.gather(*(chat(client, "b") for _ in range(3)))
        assert not long.done()
        assert all(answer.status_code == 200 for answer in others)
        interrupted = (await long).json()
        assert interrupted["choices"] == alone["choices"]
        assert interrupted["usage"]["completion_tokens"] == alone["usage"]["completion_tokens"]
        assert "a makes room; 1 requests go on in its next turn" in server.log


async def test_idle_models_give_up_their_memory(start_server: StartServer, folders: list[Path], tmp_path: Path) -> None:
    server = serve(start_server, folders[:1], 200)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await settled(client)
        async with client.stream("GET", "/admin/events") as events:
            lines = events.aiter_lines()
            assert await anext(lines) == ": listening"
            changed = await client.patch("/admin/models/a", json={"idle_seconds": 0.2})
            assert changed.json()["options"]["idle_seconds"] == 0.2
            async with asyncio.timeout(20):
                told = [json.loads(line[6:]) async for line in _until(lines, "evicted: idle")]
        assert told[-1]["model"] == "a"
        assert (await chat(client, "a")).status_code == 200


async def _until(lines: Any, last: str) -> Any:
    async for line in lines:
        if line.startswith("data: "):
            yield line
            if last in line:
                return


async def test_options_of_a_model(start_server: StartServer, folders: list[Path], tmp_path: Path) -> None:
    server = serve(start_server, folders[:1], 200)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await settled(client)
        greedy = (await chat(client, "a", 12)).json()["choices"][0]["message"]["content"]
        body: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}
        await client.patch("/admin/models/a", json={"sampling": {"temperature": 0.0}, "max_concurrent": 1})
        by_default = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(3)))
        assert {answer.json()["choices"][0]["message"]["content"] for answer in by_default} == {greedy}
        await client.patch("/admin/models/a", json={"context_tokens": 8})
        assert (await client.get("/v1/models/a")).json()["max_model_len"] == 8
        assert (await chat(client, "a")).json()["error"]["code"] == "context_length_exceeded"
        refused = await client.patch("/admin/models/a", json={"idle_seconds": "soon"})
        assert refused.status_code == 400
        assert (await client.patch("/admin/models/a", json={"source": "elsewhere"})).status_code == 400


async def test_what_was_in_memory_comes_back(start_server: StartServer, folders: list[Path], tmp_path: Path) -> None:
    """And what was evicted does not, until it is asked for; also what was set for a model is kept."""
    own = {"STORE_DIRECTORY": str(tmp_path / "store"), "POOL_RESTORE": "true"}
    server = serve(start_server, folders, 300, **own)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await settled(client)
        await client.post("/admin/models/b/evict")
        await client.post("/admin/models/c/pin")
        await chat(client, "a")
    server.kill()
    server = serve(start_server, folders, 300, **own)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await chat(client, "a")).status_code == 200
        await settled(client)
        assert await states(client) == {"a": "ready", "b": "on disk", "c": "ready"}
        models = {model["id"]: model for model in (await client.get("/admin/models")).json()["models"]}
        assert models["c"]["pinned"]
        assert models["b"]["loaded_bytes"] == models["a"]["weight_bytes"] == models["b"]["predicted_bytes"]
        assert (await chat(client, "b")).status_code == 200


async def test_a_model_that_cannot_be_loaded_hurts_nobody_else(
    start_server: StartServer, folders: list[Path], tmp_path: Path
) -> None:
    (folders[1] / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0broken")
    server = serve(start_server, folders[:2], 300, may_log_traceback=True)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        refused = await chat(client, "b")
        assert refused.status_code == 503
        assert "b" in refused.json()["error"]["message"]
        assert (await chat(client, "a")).status_code == 200
        assert (await states(client))["b"] == "failed"


async def test_what_comes_into_the_store_is_offered(
    start_server: StartServer, folders: list[Path], tmp_path: Path
) -> None:
    """While the server runs, and after it starts again."""
    own = {"STORE_DIRECTORY": str(tmp_path / "store"), "POOL_SERVE_STORED": "true"}
    server = serve(start_server, folders[:1], 300, **own)
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        await settled(client)
        assert (await chat(client, "new")).status_code == 404
        ModelStore(tmp_path / "store").import_model(read_import(str(folders[1]), "new"), lambda fraction, doing: None)
        assert (await chat(client, "new")).status_code == 200
        assert await states(client) == {"a": "ready", "new": "ready"}
    server = serve(start_server, folders[:1], 300, **own)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await chat(client, "new")).status_code == 200


async def test_an_evicted_model_is_of_the_version_that_is_current(
    start_server: StartServer, folders: list[Path], tmp_path: Path
) -> None:
    """After an import in its place, say."""
    store = ModelStore(tmp_path / "store")

    def imported(folder: Path) -> None:
        store.import_model(read_import(str(folder), "model"), lambda fraction, doing: None)

    config = json.loads((folders[1] / "config.json").read_text())
    imported(folders[0])
    own = {"STORE_DIRECTORY": str(tmp_path / "store"), "POOL_SERVE_STORED": "true"}
    server = serve(start_server, [Path("model")], 300, **own)
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        await settled(client)

        async def limit() -> int:
            await client.post("/admin/models/model/evict")
            server.wait_for_log("model has other files now")
            assert (await chat(client, "model")).status_code == 200
            tokens: int = (await client.get("/v1/models/model")).json()["max_model_len"]
            return tokens

        shorter = config["max_position_embeddings"] // 2
        (folders[1] / "config.json").write_text(json.dumps(config | {"max_position_embeddings": shorter}))
        imported(folders[1])
        assert await limit() == shorter


async def test_what_follows_a_model_each_time_is_loaded_ahead(
    start_server: StartServer, folders: list[Path], tmp_path: Path
) -> None:
    """`b` was wanted shortly after `a` ten times, and `c` never."""
    store = tmp_path / "store"
    store.mkdir()
    history = UsageHistory(store)
    for hours in range(10, 0, -1):
        began = time.time() - 3600 * hours
        history.note_use("a", began)
        history.note_use("b", began + 60)
    own = {"STORE_DIRECTORY": str(store), "POOL_PRELOAD": "true"}
    server = serve(start_server, folders, 300, **own)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await settled(client)
        for model in "abc":
            await client.post(f"/admin/models/{model}/evict")
        await chat(client, "a")
        server.wait_for_log("b may be wanted soon: it followed a within 30 minutes 10 of 10 times")
        await settled(client)
        assert await states(client) == {"a": "ready", "b": "ready", "c": "on disk"}
        await chat(client, "b")
        assert 'mlx_gateway_preloads_total{outcome="wanted"} 1.0' in (await client.get("/metrics")).text


async def test_models_are_listed_without_a_look_at_the_store_each_time(
    start_server: StartServer, folders: list[Path], tmp_path: Path
) -> None:
    own = {"STORE_DIRECTORY": str(tmp_path / "store"), "POOL_SERVE_STORED": "true"}
    server = serve(start_server, folders[:1], 300, **own)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await settled(client)
        began = time.monotonic()
        for _ in range(20):
            assert (await client.get("/v1/models")).status_code == 200
        assert time.monotonic() - began < 10  # a look may be taken once a second
