"""Settings that show in what the server says and does, and what its log must not hold."""

import json
from pathlib import Path

import httpx

from tests.conftest import StartServer


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
