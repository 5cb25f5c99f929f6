"""Whatever comes in, the answer is a clear 4xx and the server goes on."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Server, StartServer
from tests.sse import read_stream

GOOD: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": 2,
}


async def check_error(response: httpx.Response, status: int, param: str | None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert len(error["message"]) > 20
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"messages": None}, 400, "messages"),
        ({"messages": []}, 400, "messages"),
        ({"messages": ["Hello", "World"]}, 400, "messages[0]"),
        ({"model": "gpt-4o"}, 404, "model"),
        ({"model": ["tiny"]}, 400, "model"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"temperature": 1e30}, 400, "temperature"),
        ({"top_logprobs": 5}, 400, "top_logprobs"),
        ({"n": 100}, 400, "n"),
        ({"logit_bias": {"99999999": 1}}, 400, "logit_bias"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, 400, "tools[0].type"),
    ],
)
async def test_a_wrong_field(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, param: str, stream: bool
) -> None:
    response = await client.post("/v1/chat/completions", json=GOOD | fields | {"stream": stream})
    await check_error(response, status, param)


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 2**63},
        {"top_k": 2**31 - 1},
        {"seed": -(2**63)},
        {"temperature": 5e-324},
        {"top_p": 5e-324},
        {"repetition_penalty": 1e-40},
        {"max_tokens": 10**30},
        {"logit_bias": {"49151": -100, "0": 100}},
    ],
    ids=str,
)
async def test_extreme_numbers_hurt_nobody_else(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    """Served or refused; a neighbour that is generating meanwhile goes on to its end."""
    neighbour = asyncio.create_task(read_stream(client, GOOD | {"max_tokens": 200}))
    response = await client.post("/v1/chat/completions", json=GOOD | {"temperature": 1} | fields)
    assert response.status_code in (200, 400), response.text
    stream = await neighbour
    assert not stream.errors
    assert stream.chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_missing_messages(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={"model": "tiny"})
    await check_error(response, 400, "messages")


async def test_an_unknown_model_is_answered_with_the_known_ones(client: httpx.AsyncClient) -> None:
    error = await check_error(await client.post("/v1/chat/completions", json=GOOD | {"model": "x"}), 404, "model")
    assert error["code"] == "model_not_found"
    assert "tiny" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_longer_than_the_context(client: httpx.AsyncClient, stream: bool) -> None:
    messages = [{"role": "user", "content": "word " * 3_000}]
    response = await client.post("/v1/chat/completions", json=GOOD | {"messages": messages, "stream": stream})
    error = await check_error(response, 400, "messages")
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 512 tokens" in error["message"]
    assert "3031 tokens" in error["message"]


LONG = "word " * 6_000_000
LONG_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": ({"messages": [{"role": "user", "content": LONG}]}, "messages"),
    "/v1/messages": ({"messages": [{"role": "user", "content": LONG}], "max_tokens": 5}, "messages"),
    "/v1/messages/count_tokens": ({"messages": [{"role": "user", "content": LONG}]}, "messages"),
    "/v1/responses": ({"input": LONG, "stream": True}, "input"),
    "/v1/completions": ({"prompt": LONG}, "prompt"),
    "/v1/tokenize": ({"prompt": LONG}, "prompt"),
    "/api/chat": ({"messages": [{"role": "user", "content": LONG}]}, "messages"),
}


@pytest.mark.parametrize("path", LONG_INPUTS)
async def test_a_text_that_no_context_holds_is_refused_without_counting(client: httpx.AsyncClient, path: str) -> None:
    """To put it into tokens would take a minute and gigabytes."""
    fields, named = LONG_INPUTS[path]
    response = await client.post(path, json={"model": "tiny"} | fields, timeout=20)
    assert response.status_code == 400
    assert "at least 370" in response.text
    assert f"Shorten the {named}." in response.text


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", "messages"),
        ("/v1/messages", "messages"),
        ("/v1/responses", "input"),
        ("/api/chat", "messages"),
    ],
)
async def test_too_many_messages_are_refused_at_once(client: httpx.AsyncClient, path: str, field: str) -> None:
    messages = [{"role": "user", "content": ""}] * 10_001
    response = await client.post(path, json={"model": "tiny", "max_tokens": 5, field: messages})
    assert response.status_code == 400
    assert f"length <= 10000 (at {field})" in response.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xff", b"[" * 200_000, b'{"model": "tiny", "messages": "\\ud800"}']
)
async def test_a_body_that_is_no_request(client: httpx.AsyncClient, body: bytes) -> None:
    await check_error(await client.post("/v1/chat/completions", content=body), 400, None)


async def test_strange_but_valid_text_is_served(client: httpx.AsyncClient) -> None:
    messages = [{"role": "user", "content": "\0 \U0001f99c \u202e " + "\x07"}]
    response = await client.post("/v1/chat/completions", json=GOOD | {"messages": messages})
    assert response.status_code == 200


async def test_a_huge_body_is_refused_while_others_are_served(start_server: StartServer, tiny_folder: Any) -> None:
    server = start_server("--model", str(tiny_folder))
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def chunks() -> Any:
            for _ in range(100):
                yield b" " * 1024 * 1024

        declared = client.post("/v1/chat/completions", content=b" " * 100 * 1024 * 1024)
        streamed = client.post("/v1/chat/completions", content=chunks())
        one, other, good = await asyncio.gather(declared, streamed, read_stream(client, GOOD))
        assert good.ended_with_done
        for response in (one, other):
            error = await check_error(response, 413, None)
            assert "33554432 bytes" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/none", 404), ("GET", "/v1/chat/completions", 405), ("DELETE", "/v1/models", 405), ("POST", "/", 405)],
)
async def test_unknown_urls_and_methods(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    await check_error(await client.request(method, path), status, None)


# --- fuzz: arbitrary JSON, and good requests with one part replaced ------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
FIELDS = [
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "logprobs"),
    *("top_logprobs", "n", "seed", "stop", "response_format", "tools", "functions", "modalities", "audio"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "prompt_cache_key"),
]
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "system", "assistant", "developer", "tool", "?"]),
            "content": st.text() | json_values,
            "tool_calls": json_values,
        },
    ),
    max_size=4,
)
near_misses = st.dictionaries(st.sampled_from(FIELDS), json_values | st.integers(-3, 3) | messages, max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=near_misses.map(lambda fields: GOOD | fields) | json_values)
def test_no_body_breaks_the_server(tiny_server: Server, body: Any) -> None:
    content = json.dumps(body).encode()  # with NaN, Infinity and lone surrogates, as Python writes them
    response = httpx.post(f"{tiny_server.url}/v1/chat/completions", content=content, timeout=60)
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx.get(f"{tiny_server.url}/health/ready").status_code == 200


OTHER_FIELDS = [
    *("prompt", "suffix", "echo", "best_of", "logprobs", "n", "stop", "stream", "max_tokens", "tokens", "random_seed"),
    *("options", "format", "think", "raw", "system", "template", "images", "messages", "tools", "model", "name"),
]
GOOD_ELSEWHERE: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Hello", "max_tokens": 2},
    "/v1/fim/completions": {"prompt": "Hello", "max_tokens": 2},
    "/v1/tokenize": {"prompt": "Hello"},
    "/v1/detokenize": {"tokens": [5]},
    "/api/chat": {"messages": GOOD["messages"], "options": {"num_predict": 2}},
    "/api/generate": {"prompt": "Hello", "options": {"num_predict": 2}},
    "/api/show": {},
}
options = st.dictionaries(
    st.sampled_from(["num_predict", "temperature", "top_k", "seed", "stop", "repeat_penalty", "num_ctx"]),
    json_values | st.integers(-3, 3),
)
other_near_misses = st.dictionaries(
    st.sampled_from(OTHER_FIELDS), json_values | st.integers(-3, 3) | messages | options, max_size=4
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(list(GOOD_ELSEWHERE)), fields=other_near_misses, other=st.none() | json_values)
def test_no_body_breaks_the_other_routes(tiny_server: Server, path: str, fields: dict[str, Any], other: Any) -> None:
    body = {"model": "tiny"} | GOOD_ELSEWHERE[path] | fields if other is None else other
    response = httpx.post(f"{tiny_server.url}{path}", content=json.dumps(body).encode(), timeout=60)
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert response.json()["error"]
    assert httpx.get(f"{tiny_server.url}/health/ready").status_code == 200
