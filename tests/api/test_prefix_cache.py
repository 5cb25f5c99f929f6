"""The prefix cache as clients and operators see it."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.conftest import Server, StartServer

LONG = "The quick brown fox jumps over the lazy dog near the river bank. " * 12


@pytest.fixture
async def client(tiny_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=tiny_server.url, timeout=120) as client:
        await client.delete("/admin/cache")
        yield client


def chat(*contents: str, model: str = "tiny", max_tokens: int = 4) -> dict[str, Any]:
    roles = ["system", *["user", "assistant"] * len(contents)]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}


async def ask(client: httpx.AsyncClient, body: dict[str, Any], **headers: str) -> httpx.Response:
    response = await client.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response


def cached(response: httpx.Response) -> int:
    tokens: int = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return tokens


async def test_a_repeated_prompt_is_not_computed_again(client: httpx.AsyncClient) -> None:
    first = await ask(client, chat("Be brief.", LONG))
    again = await ask(client, chat("Be brief.", LONG))
    assert cached(first) == 0
    assert cached(again) == again.json()["usage"]["prompt_tokens"] - 1
    assert first.json()["choices"] == again.json()["choices"]


async def test_the_next_turn_computes_what_is_new(client: httpx.AsyncClient) -> None:
    first = await ask(client, chat("Be brief.", LONG))
    answer = first.json()["choices"][0]["message"]["content"]
    second = await ask(client, chat("Be brief.", LONG, answer, "And now?"))
    assert cached(second) >= first.json()["usage"]["prompt_tokens"]
    usage = second.json()["usage"]
    assert usage["prompt_tokens"] - cached(second) < 24


async def test_an_operator_sees_what_is_kept_and_can_drop_it(client: httpx.AsyncClient) -> None:
    await ask(client, chat("Be brief.", LONG), **{"x-session-id": "mine"})
    use = (await client.get("/admin/cache")).json()
    (model,) = use["models"]
    assert model["id"] == "tiny"
    assert model["ram_bytes"] == use["ram"]["bytes"] > 0
    assert model["sessions"]["mine"] > 0
    refused = await client.delete("/admin/cache", params={"model": "other"})
    assert refused.status_code == 400
    assert "tiny" in refused.json()["error"]["message"]
    cleared = (await client.delete("/admin/cache", params={"model": "tiny"})).json()
    assert cleared["ram_bytes"] == use["ram"]["bytes"]
    assert (await client.get("/admin/cache")).json()["ram"]["bytes"] == 0
    assert cached(await ask(client, chat("Be brief.", LONG))) == 0


async def test_a_miss_is_explained(client: httpx.AsyncClient) -> None:
    """The request's id is in its answer; the place where it left what was known is shown in words."""
    session = {"x-session-id": "explained"}
    await ask(client, chat("Today is 2026-11-24.", LONG), **session)
    second = await ask(client, chat("Today is 2026-11-25.", LONG), **session)
    found = (await client.get(f"/admin/cache/explain/{second.headers['x-request-id']}")).json()
    assert found["cause"] == "date_or_time"
    assert found["reused_tokens"] == cached(second)
    assert found["before"].endswith("2026-11-2")
    assert found["prompt"].startswith("5")
    assert found["cached"].startswith("4")
    unknown = await client.get("/admin/cache/explain/req-0")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "request_not_known"


async def test_the_log_tells_the_cause_and_no_word_of_the_prompt(
    tiny_server: Server, client: httpx.AsyncClient
) -> None:
    response = await ask(client, chat("Be a zebrafish.", LONG))
    line = tiny_server.wait_for_log(f'"request":"{response.headers["x-request-id"]}","model":"tiny"')
    assert "prompt tokens reused" in line
    assert "zebrafish" not in tiny_server.log


async def test_metrics_tell_where_prompt_tokens_came_from(client: httpx.AsyncClient) -> None:
    async def value(name: str) -> float:
        lines = (await client.get("/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    source = 'mlx_gateway_prompt_tokens_by_source_total{model_name="tiny",source="memory"}'
    before = await value(source), await value("vllm:prefix_cache_hits_total{")
    await ask(client, chat("Be brief.", LONG))
    again = cached(await ask(client, chat("Be brief.", LONG)))
    assert await value(source) - before[0] == again
    assert await value("vllm:prefix_cache_hits_total{") - before[1] == again
    assert await value("mlx_gateway_prefix_cache_missed_tokens_total{") > 0
    assert await value('mlx_gateway_prefix_cache_bytes{tier="ram"}') > 0


async def test_without_a_cache_everything_is_computed(start_server: StartServer, tiny_folder: Any) -> None:
    server = start_server("--model", str(tiny_folder), CACHE_ENABLED="false")
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        for _ in range(2):
            assert cached(await ask(client, chat("Be brief.", LONG))) == 0
        assert (await client.get("/admin/cache")).json()["models"] == []
