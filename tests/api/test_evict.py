"""Evicting a model over HTTP, and the request that brings it back."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.api.test_chat import body, text
from tests.api.test_prefix_cache import LONG, ask, cached, chat
from tests.conftest import StartServer
from tests.end_to_end.test_prefixes_on_disk import client_of, on_disk, until_written


async def test_a_request_brings_an_evicted_model_back(client: httpx.AsyncClient) -> None:
    before = await text(client)
    evicted = await client.post("/admin/models/tiny/evict")
    assert {"id": "tiny", "state": "on disk"}.items() <= evicted.json().items()
    assert (await client.get("/health/ready")).status_code == 200
    assert "vllm" in (await client.get("/metrics")).text
    several = await asyncio.gather(*(text(client) for _ in range(4)))
    assert several == [before] * 4
    states = (await client.get("/health/ready")).json()["models"]
    assert [model["state"] for model in states] == ["ready"]


async def test_a_model_that_serves_is_not_evicted(client: httpx.AsyncClient) -> None:
    async with client.stream("POST", "/v1/chat/completions", json=body(stream=True, max_tokens=400)) as answer:
        lines = answer.aiter_lines()
        while "content" not in await anext(lines):
            pass
        refused = await client.post("/admin/models/tiny/evict")
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "model_busy"
        assert '"finish_reason":"length"' in "".join([line async for line in lines])


async def test_what_an_evicted_model_had_computed_comes_from_disk(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    server = start_server("--model", str(tiny_folder), **on_disk(tmp_path / "prefixes"))
    async with client_of(server) as client:
        answer = await ask(client, chat("Be brief.", LONG))
        await until_written(client, 1)
        await client.post("/admin/models/tiny/evict")
        assert (await client.get("/admin/cache")).json()["models"] == []
        again = await ask(client, chat("Be brief.", LONG))
        assert again.json()["choices"] == answer.json()["choices"]
        assert cached(again) == again.json()["usage"]["prompt_tokens"] - 1


async def test_an_eviction_between_a_request_s_coming_and_its_start_delays_it_only(client: httpx.AsyncClient) -> None:
    """Reading a long prompt takes a while, in which nothing is submitted yet."""
    long = [{"role": "user", "content": "word " * 400}]
    before = await text(client, messages=long)
    for _ in range(5):
        asked = [asyncio.create_task(text(client, messages=long)) for _ in range(4)]
        evictions = [await client.post("/admin/models/tiny/evict") for _ in range(6)]
        assert {answer.status_code for answer in evictions} <= {200, 409}
        assert await asyncio.wait_for(asyncio.gather(*asked), 60) == [before] * 4


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://example.com"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"host": "rebound.example.com"},
    ],
    ids=str,
)
async def test_no_web_page_is_the_operator(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    refused = await client.post("/admin/models/tiny/evict", headers=headers)
    told = (421, "host_not_allowed") if "host" in headers else (403, "origin_not_allowed")
    assert (refused.status_code, refused.json()["error"]["code"]) == told
    own = {"origin": str(client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    assert (await client.get("/admin/cache", headers=own)).status_code == 200


async def test_lm_studios_and_llama_swaps_ways_to_load_and_unload(client: httpx.AsyncClient) -> None:
    async def running() -> list[str]:
        return [model["model"] for model in (await client.get("/running")).json()["running"]]

    for unload in (
        client.build_request("POST", "/api/v1/models/unload", json={"instance_id": "tiny"}),
        client.build_request("POST", "/api/models/unload/tiny"),
        client.build_request("POST", "/api/models/unload"),
        client.build_request("GET", "/unload"),
    ):
        loaded = (await client.post("/api/v1/models/load", json={"model": "tiny"})).json()
        assert loaded.items() >= {"type": "llm", "instance_id": "tiny", "status": "loaded"}.items()
        assert await running() == ["tiny"]
        assert (await client.send(unload)).status_code == 200
        assert await running() == []
    assert (await client.get("/unload", headers={"sec-fetch-site": "cross-site"})).status_code == 403
    assert await text(client)
