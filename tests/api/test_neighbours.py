"""The dialects of Ollama, LM Studio and LiteLLM over HTTP: a real server with the tiny model."""

import json
from typing import Any

import httpx
import pytest

HELLO = [{"role": "user", "content": "Hello"}]
OPTIONS = {"temperature": 0, "num_predict": 6}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HELLO, "options": OPTIONS} | fields


async def openai_text(client: httpx.AsyncClient, **fields: Any) -> str:
    request = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 6} | fields
    content: str = (await client.post("/v1/chat/completions", json=request)).json()["choices"][0]["message"]["content"]
    return content


async def lines(client: httpx.AsyncClient, path: str, content: dict[str, Any]) -> list[dict[str, Any]]:
    response = await client.post(path, json=content)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


async def test_a_chat_streams_unless_it_says_otherwise(client: httpx.AsyncClient) -> None:
    said = await openai_text(client)
    *parts, last = await lines(client, "/api/chat", body())
    assert "".join(part["message"]["content"] for part in parts) == said
    assert all(part["message"]["role"] == "assistant" and not part["done"] for part in parts)
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "length", "")
    assert last["eval_count"] == 6
    spent = last["load_duration"] + last["prompt_eval_duration"] + last["eval_duration"]
    assert 0 < spent == last["total_duration"]
    whole = (await client.post("/api/chat", json=body(stream=False))).json()
    assert whole["message"] == {"role": "assistant", "content": said}
    assert whole.keys() == last.keys()
    assert whole["prompt_eval_count"] == last["prompt_eval_count"] > 0


async def test_a_text_is_the_conversation_with_it_alone(client: httpx.AsyncClient) -> None:
    said = await openai_text(client, messages=[{"role": "system", "content": "Be brief."}, *HELLO])
    request = {"model": "tiny:latest", "prompt": "Hello", "system": "Be brief.", "options": OPTIONS}
    parts = await lines(client, "/api/generate", request)
    assert "".join(part["response"] for part in parts) == said
    assert parts[-1]["model"] == "tiny:latest"
    raw = (await client.post("/api/generate", json=request | {"raw": True, "stream": False})).json()["response"]
    completion = {"model": "tiny", "prompt": "Hello", "temperature": 0, "max_tokens": 6}
    assert raw == (await client.post("/v1/completions", json=completion)).json()["choices"][0]["text"]


async def test_an_empty_request_has_the_model_loaded(client: httpx.AsyncClient) -> None:
    for path in ("/api/chat", "/api/generate"):
        loaded = (await client.post(path, json={"model": "tiny"})).json()
        assert (loaded["done"], loaded["done_reason"]) == (True, "load")


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_model_is_unloaded_and_loaded_as_ollama_does(client: httpx.AsyncClient, path: str) -> None:
    async def running() -> list[str]:
        return [model["name"] for model in (await client.get("/api/ps")).json()["models"]]

    for keep_alive in (0, "0s"):
        unloaded = await client.post(path, json={"model": "tiny:latest", "keep_alive": keep_alive, "invented": 1})
        assert (unloaded.json()["done"], unloaded.json()["done_reason"]) == (True, "unload")
        assert unloaded.headers["warning"].endswith('"ignored parameters: invented"')
        assert await running() == []
    loaded = await client.post(path, json={"model": "tiny", "keep_alive": "5m"})
    assert loaded.json()["done_reason"] == "load"
    assert loaded.headers["warning"].endswith('"ignored parameters: keep_alive"')
    assert await running() == ["tiny"]


async def test_a_model_that_serves_is_not_unloaded(client: httpx.AsyncClient) -> None:
    request = body(options={"temperature": 0, "num_predict": 400})
    async with client.stream("POST", "/api/chat", json=request) as answer:
        lines_of_answer = answer.aiter_lines()
        await anext(lines_of_answer)
        refused = await client.post("/api/generate", json={"model": "tiny", "keep_alive": 0})
        assert refused.status_code == 409
        assert "cannot be evicted now" in refused.json()["error"]
        assert '"done":true' in "".join([line async for line in lines_of_answer])


async def test_an_answer_keeps_to_its_format(client: httpx.AsyncClient) -> None:
    properties = {"yes": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": ["yes"], "additionalProperties": False}
    request = body(format=schema, stream=False, options={"temperature": 0})
    answer = (await client.post("/api/chat", json=request)).json()
    assert isinstance(json.loads(answer["message"]["content"])["yes"], bool)


async def test_what_has_no_effect_is_named_in_a_header(client: httpx.AsyncClient) -> None:
    for stream in (True, False):
        request = body(stream=stream, keep_alive="5m", options=OPTIONS | {"num_ctx": 4096, "mirostat": None})
        response = await client.post("/api/chat", json=request)
        assert response.headers["warning"] == '299 mlx-gateway "ignored parameters: keep_alive, options.num_ctx"'
        assert "warning" not in (await client.post("/api/chat", json=body(stream=stream))).headers


@pytest.mark.parametrize(
    ("path", "fields", "status", "named"),
    [
        ("/api/chat", {"model": "none", "messages": HELLO}, 404, "tiny"),
        ("/api/chat", {"model": "tiny", "messages": [HELLO[0] | {"images": ["aGk="]}]}, 400, "images"),
        (
            "/api/chat",
            {"model": "tiny", "messages": [{"role": "user", "content": "word " * 600}]},
            400,
            "maximum context",
        ),
        ("/api/chat", {"model": "tiny", "messages": HELLO, "format": "xml"}, 400, "format"),
        ("/api/chat", {"model": "tiny", "messages": HELLO, "options": {"temperature": 9}}, 400, "options.temperature"),
        ("/api/generate", {"model": "tiny", "prompt": "x", "images": ["aGk="]}, 400, "images"),
        ("/api/generate", {"model": "tiny", "prompt": "x", "template": "{{ .Prompt }}"}, 400, "template"),
        ("/api/generate", {"model": "tiny", "prompt": "x", "suffix": "y"}, 400, "fill-in-the-middle"),
        ("/api/generate", {}, 400, "model"),
        ("/api/show", {}, 400, "model"),
        ("/api/show", {"model": "none"}, 404, "tiny"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_errors_are_one_sentence(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], status: int, named: str
) -> None:
    response = await client.post(path, json=fields)
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert named in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "content"),
    [
        ("GET", "/api/none", 404, b""),
        ("GET", "/api/chat", 405, b""),
        ("POST", "/api/chat", 413, b" " * 33 * 2**20),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_errors_outside_the_endpoints_are_ollamas_too(
    client: httpx.AsyncClient, method: str, path: str, status: int, content: bytes
) -> None:
    response = await client.request(method, path, content=content)
    assert response.status_code == status
    assert isinstance(response.json()["error"], str)
    for other in ("/api/v0/none", "/api/v1/none", "/apish"):
        assert (await client.get(other)).json()["error"]["code"] == "unknown_url"


async def test_what_clients_look_for_in_a_model(client: httpx.AsyncClient) -> None:
    version = (await client.get("/api/version")).json()["version"]
    assert [int(part) for part in version.split("+")[0].split(".")] >= [0, 6, 4]
    assert "mlx-gateway" in version
    (listed,) = (await client.get("/api/tags")).json()["models"]
    (running,) = (await client.get("/api/ps")).json()["models"]
    assert listed["name"] == listed["model"] == running["name"] == "tiny"
    assert listed["size"] == running["size_vram"] > 1e6
    assert running["context_length"] == 512
    shown = (await client.post("/api/show", json={"model": "tiny"})).json()
    assert shown["capabilities"] == ["completion"]
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 512
    assert shown == (await client.post("/api/show", json={"name": "tiny:latest"})).json()


async def test_lm_studios_and_lite_llms_lists(client: httpx.AsyncClient) -> None:
    (model,) = (await client.get("/api/v0/models")).json()["data"]
    assert model == (await client.get("/api/v0/models/tiny")).json()
    assert (model["id"], model["state"], model["max_context_length"]) == ("tiny", "loaded", 512)
    (key,) = (await client.get("/api/v1/models")).json()["models"]
    assert (key["key"], key["max_context_length"]) == ("tiny", 512)
    assert key["loaded_instances"][0]["config"]["context_length"] == 512
    for path in ("/model/info", "/v1/model/info"):
        (info,) = (await client.get(path)).json()["data"]
        assert (info["model_name"], info["model_info"]["max_input_tokens"]) == ("tiny", 512)
    assert (await client.get("/api/v0/models/none")).status_code == 404
