from importlib.metadata import version

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_the_model_is_listed_with_its_context(client: httpx.AsyncClient, prefix: str) -> None:
    listed = (await client.get(f"{prefix}/models")).json()
    (model,) = listed["data"]
    assert listed["object"] == "list"
    assert (model["id"], model["object"]) == ("tiny", "model")
    assert model["context_length"] == model["max_model_len"] == model["meta"]["n_ctx"] == 512
    assert (await client.get(f"{prefix}/models/tiny")).json() == model


async def test_an_unknown_model_with_a_slash_is_a_404(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models/org/none")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_health(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live")).json() == {"status": "live"}
    ready = (await client.get("/health/ready")).json()
    assert ready == {
        "ready": True,
        "models": [{"id": "tiny", "state": "ready", "doing": "ready", "fraction": 1.0}],
    }


async def test_metrics_count_what_happened(client: httpx.AsyncClient) -> None:
    async def value(name: str, **labels: str) -> float:
        response = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        samples = [s for family in text_string_to_metric_families(response.text) for s in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    names = ["vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_count", "vllm:prompt_tokens_total"]
    names += ["vllm:e2e_request_latency_seconds_count"]
    before = [await value(name, model_name="tiny") for name in names]
    ended = await value("vllm:request_success_total", finished_reason="length")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "temperature": 0}
    usage = (await client.post("/v1/chat/completions", json=body)).json()["usage"]
    after = [await value(name, model_name="tiny") for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [5, 1, usage["prompt_tokens"], 1]
    assert await value("vllm:inter_token_latency_seconds_count", model_name="tiny") > 0
    assert await value("vllm:request_success_total", finished_reason="length") == ended + 1
    assert await value("mlx_gateway_build_info", version=version("mlx-gateway")) == 1
    assert await value("mlx_gateway_model_weight_bytes", model_name="tiny") > 1e6
    for measured in ("decode_step_seconds", "prefill_chunk_tokens"):
        assert await value(f"mlx_gateway_{measured}", model_name="tiny") > 0
    learned = [await value(f"mlx_gateway_pass_{part}_seconds") for part in ("fixed", "token", "attended_token")]
    assert 0 < max(learned) < 1
    owners = {owner: await value("mlx_gateway_memory_bytes", owner=owner) for owner in ("budget", "weights", "free")}
    assert owners["budget"] > owners["weights"] + owners["free"] > owners["free"] > 0
    assert await value("mlx_gateway_requests_waiting", model_name="tiny", priority="interactive") == 0
    await client.get("/v1/invented/by/a/client")
    routes = (await client.get("/metrics")).text
    assert "invented" not in routes


async def test_every_answer_has_a_request_id(client: httpx.AsyncClient) -> None:
    first, second = [(await client.get(path)).headers["x-request-id"] for path in ("/v1/models", "/none")]
    assert first.startswith("req-")
    assert first != second
