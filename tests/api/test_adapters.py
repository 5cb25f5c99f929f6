"""LoRA adapters through a real server, beside models that have the same adapters merged into their weights."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server, running_server

LAYERS = {
    f"model.layers.{layer}.{name}": size
    for layer in (0, 1)
    for name, size in {
        "self_attn.q_proj": (64, 64),
        "self_attn.v_proj": (64, 32),
        "mlp.down_proj": (128, 64),
    }.items()
}
"""Of the tiny model."""
LONG = "The quick brown fox jumps over the lazy dog near the river bank. " * 12


@pytest.fixture(scope="module")
def server(demo_store: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`tiny` with the adapters `one`, `two` and one that does not suit it; `merged-one` and `merged-two`."""
    from tests.engine.adapters import read_adapter, write_adapter

    folder = tmp_path_factory.mktemp("adapters")
    write_adapter(folder / "one", LAYERS, rank=4, seed=1)
    write_adapter(folder / "two", LAYERS, rank=8, seed=2, peft=True)
    write_adapter(folder / "alien", {"model.layers.5.self_attn.q_proj": (64, 64)}, rank=4, seed=3)
    for name in ("one", "two"):
        write_merged(folder / f"merged-{name}", tiny_folder, read_adapter(folder / name, name))
    adapters = [f"{name}={folder / name}" for name in ("one", "two", "alien", "absent")]
    config = folder / "gateway.toml"
    config.write_text(
        f"[model]\nsource = {json.dumps(str(tiny_folder))}\nadapters = {json.dumps(adapters)}\n"
        + "".join(f"[[models]]\nsource = {json.dumps(str(folder / f'merged-{name}'))}\n" for name in ("one", "two"))
    )
    with running_server(demo_store, "--config", str(config)) as server:
        for model in ("tiny", "merged-one", "merged-two"):
            server.wait_for_log(f"{model} is ready after ")
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        yield client


def write_merged(folder: Path, base: Path, adapter: Any) -> None:
    import mlx.core as mx
    import mlx_lm.utils
    from mlx.utils import tree_flatten

    from tests.engine.adapters import merged

    shutil.copytree(base, folder)
    model, _ = mlx_lm.utils.load_model(base)
    weights: Any = dict(tree_flatten(merged(model, adapter).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})


def chat(model: str, text: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 24, "logprobs": True}


async def ask(client: httpx.AsyncClient, model: str, text: str = "Hello") -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json=chat(model, text))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def tokens(answer: dict[str, Any]) -> list[str]:
    return [token["token"] for token in answer["choices"][0]["logprobs"]["content"]]


async def test_two_adapters_and_their_base_at_once_answer_as_merged_models_do(client: httpx.AsyncClient) -> None:
    texts = [f"{word}, {LONG}" for word in ("Hello", "Goodbye")]
    asked = [(model, text) for model in ("tiny", "tiny:one", "tiny:two") for text in texts]
    mixed = dict(zip(asked, await asyncio.gather(*(ask(client, *one) for one in asked)), strict=True))
    for text in texts:
        one, two = (mixed[f"tiny:{name}", text] for name in ("one", "two"))
        assert tokens(one) == tokens(await ask(client, "merged-one", text))
        assert tokens(two) == tokens(await ask(client, "merged-two", text))
        assert len({tuple(tokens(mixed[model, text])) for model in ("tiny", "tiny:one", "tiny:two")}) == 3
    assert mixed["tiny:one", texts[0]]["model"] == "tiny:one"


async def test_prefixes_are_reused_with_the_same_adapter_only(client: httpx.AsyncClient) -> None:
    text = f"What follows is only for this test. {LONG}"

    def cached(answer: dict[str, Any]) -> int:
        count: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return count

    first = await ask(client, "tiny:one", text)
    assert cached(await ask(client, "tiny:two", text)) == 0
    assert cached(await ask(client, "tiny", text)) == 0
    again = await ask(client, "tiny:one", text)
    assert cached(again) > 0
    assert tokens(again) == tokens(first)


async def test_adapters_are_listed_with_their_base(client: httpx.AsyncClient) -> None:
    listed = {model["id"]: model for model in (await client.get("/v1/models")).json()["data"]}
    assert list(listed) == ["tiny", "tiny:one", "tiny:two", "merged-one", "merged-two"]
    assert listed["tiny:one"]["parent"] == "tiny"
    assert "parent" not in listed["tiny"]
    assert (await client.get("/v1/models/tiny:two")).json() == listed["tiny:two"]
    tags = (await client.get("/api/tags")).json()["models"]
    assert [model["model"] for model in tags][:3] == ["tiny", "tiny:one", "tiny:two"]


async def test_an_adapter_that_cannot_serve_fails_its_own_requests(client: httpx.AsyncClient) -> None:
    alien = await client.post("/v1/chat/completions", json=chat("tiny:alien", "Hello"))
    assert alien.status_code == 503
    assert "has no layer model.layers.5.self_attn.q_proj" in alien.json()["error"]["message"]
    absent = await client.post("/v1/chat/completions", json=chat("tiny:absent", "Hello"))
    assert absent.status_code == 503
    assert "no such folder" in absent.json()["error"]["message"]
    unknown = await client.post("/v1/chat/completions", json=chat("tiny:unheard-of", "Hello"))
    assert unknown.status_code == 404
    assert "tiny:one" in unknown.json()["error"]["message"]


async def test_an_evicted_base_comes_back_with_its_adapters(client: httpx.AsyncClient) -> None:
    before = await ask(client, "tiny:two")
    assert (await client.post("/admin/models/tiny/evict")).status_code == 200
    assert tokens(await ask(client, "tiny:two")) == tokens(before)
