"""GET /metrics of a real server after real requests."""

import asyncio

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Server

HISTOGRAMS = (
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:request_time_per_output_token_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:request_prefill_time_seconds",
    "vllm:request_decode_time_seconds",
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
)
OTHERS = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def _samples(client: httpx.AsyncClient) -> Samples:
    text = (await client.get("/metrics")).text
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


async def _chat(client: httpx.AsyncClient, model: str = "tiny", **body: object) -> httpx.Response:
    messages = [{"role": "user", "content": "Hi"}]
    return await client.post("/v1/chat/completions", json={"model": model, "messages": messages, **body})


async def test_the_names_that_dashboards_of_vllm_query_are_there(tiny_server: Server) -> None:
    async with httpx.AsyncClient(base_url=tiny_server.url, timeout=60) as client:
        before = await _samples(client)
        assert (await _chat(client, max_tokens=6, temperature=0)).status_code == 200
        after = await _samples(client)
    model = ("model_name", "tiny")
    for name in HISTOGRAMS:
        key = f"{name}_count", frozenset({model})
        assert after[key] > before[key], name
    for name in OTHERS:
        assert any(key[0] == name and model in key[1] for key in after), name
    generated = "vllm:request_generation_tokens_sum", frozenset({model})
    assert after[generated] - before[generated] == 6


async def test_latencies_are_told_apart_by_class(tiny_server: Server) -> None:
    async with httpx.AsyncClient(base_url=tiny_server.url, timeout=60) as client:
        before = await _samples(client)
        await _chat(client, max_tokens=4)
        await _chat(client, max_tokens=400, stop=["e", "a", "n", "t", " "])
        after = await _samples(client)
    for name in ("interactive", "normal"):
        labels = frozenset({("model_name", "tiny"), ("priority", name)})
        key = "mlx_gateway_time_to_first_token_seconds_count", labels
        assert after[key] - before[key] == 1


async def test_what_clients_send_makes_no_series(tiny_server: Server) -> None:
    async with httpx.AsyncClient(base_url=tiny_server.url, timeout=60) as client:
        assert (await _chat(client, "invented-first")).status_code == 404  # makes the series of this refusal
        await client.get("/invented/path")
        before = set(await _samples(client))
        answers = [await _chat(client, f"invented-{index}") for index in range(20)]
        answers += [await client.get(f"/invented/{index}") for index in range(20)]
        answers += [await client.request(verb, "/v1/models") for verb in ("PROPFIND", "LOCK")]
        assert {answer.status_code for answer in answers} <= {404, 405}
        new = set(await _samples(client)) - before
    assert "invented" not in repr(before)
    assert len({labels for name, labels in new}) <= 1, new  # the status 405 of an unknown verb


async def test_the_owners_of_memory_add_up_to_the_budget(tiny_server: Server) -> None:
    async with httpx.AsyncClient(base_url=tiny_server.url, timeout=60) as client:
        await _chat(client, max_tokens=2)
        samples = await _samples(client)
    held = {
        dict(labels)["owner"]: value
        for (name, labels), value in samples.items()
        if name.endswith("memory_bytes") and labels
    }
    budget = held.pop("budget")
    assert set(held) == {"weights", "kv_cache", "prefix_cache", "work_space", "free"}
    assert held["weights"] > 0
    assert sum(held.values()) == budget


async def test_the_process_and_its_event_loop_are_watched(tiny_server: Server) -> None:
    lag = "mlx_gateway_event_loop_lag_seconds_count", frozenset[tuple[str, str]]()
    async with httpx.AsyncClient(base_url=tiny_server.url, timeout=60) as client:
        before = await _samples(client)
        async with asyncio.timeout(30):
            while (after := await _samples(client))[lag] == before[lag]:
                await _chat(client, max_tokens=1)
    nothing = frozenset[tuple[str, str]]()
    assert after["process_resident_memory_bytes", nothing] > 50e6
    assert after["process_cpu_seconds_total", nothing] > before["process_cpu_seconds_total", nothing]
    assert after["mlx_gateway_downloads", frozenset({("state", "running")})] == 0
