"""Anthropic's messages over HTTP: a real server with the tiny model."""

from typing import Any

import httpx
import pytest

from tests.conftest import StartServer

HELLO = [{"role": "user", "content": "Hello"}]
GOOD: dict[str, Any] = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 6}


def check_error(response: httpx.Response, status: int, kind: str) -> str:
    """Anthropic's shape and nothing else; the message."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    message: str = body["error"]["message"]
    return message


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages?beta=true", "/messages"])
async def test_every_path_answers(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=GOOD, headers={"anthropic-beta": "x", "x-api-key": "k"})
    assert response.status_code == 200, response.text
    message = response.json()
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "tiny")
    assert message["stop_reason"] == "max_tokens"
    assert message["usage"]["output_tokens"] == 6
    assert message["content"][0]["text"]
    assert response.headers["request-id"] == response.headers["x-request-id"]


async def test_the_prompt_and_the_answer_are_those_of_chat(client: httpx.AsyncClient) -> None:
    """Blocks, `cache_control` and the line that changes in every request leave no trace."""
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=36ee5;"},
        {"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}},
    ]
    message = (await client.post("/v1/messages", json=GOOD | {"system": system})).json()
    messages = [{"role": "system", "content": "Be brief"}, *HELLO]
    chat = (await client.post("/v1/chat/completions", json=GOOD | {"messages": messages})).json()
    assert message["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    usage = message["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == chat["usage"]["prompt_tokens"]


async def test_what_was_computed_before_is_not_among_the_input_tokens(client: httpx.AsyncClient) -> None:
    body = GOOD | {"messages": [{"role": "user", "content": "Count the words of this sentence. " * 20}]}
    count = (await client.post("/v1/messages/count_tokens", json=body)).json()["input_tokens"]
    first, second = [(await client.post("/v1/messages", json=body)).json()["usage"] for _ in range(2)]
    assert first["input_tokens"] + first["cache_read_input_tokens"] == count
    assert second["cache_read_input_tokens"] > count // 2
    assert second["input_tokens"] == count - second["cache_read_input_tokens"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"system": "Be brief"},
        {"tools": [{"name": "read_file", "input_schema": {"type": "object"}}]},
        {"messages": [*HELLO, {"role": "assistant", "content": "Hi"}, {"role": "system", "content": "a"}, *HELLO]},
    ],
    ids=str,
)
async def test_counted_tokens_are_the_prompts(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    body = GOOD | fields
    usage = (await client.post("/v1/messages", json=body)).json()["usage"]
    del body["max_tokens"]
    counted = await client.post("/v1/messages/count_tokens?beta=true", json=body)
    assert counted.json() == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


async def test_counting_takes_prompts_beyond_the_context_and_no_place_in_the_queue(client: httpx.AsyncClient) -> None:
    before = (await client.get("/metrics")).text
    body = {"model": "tiny", "messages": [{"role": "user", "content": "word " * 1000}]}
    counted = await client.post("/v1/messages/count_tokens", json=body)
    assert counted.json() == {"input_tokens": 1031}
    counter = "vllm:prompt_tokens_total{"
    after = (await client.get("/metrics")).text
    assert [line for line in before.splitlines() if line.startswith(counter)] == [
        line for line in after.splitlines() if line.startswith(counter)
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "status", "kind", "words"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"temperature": 2}, 400, "invalid_request_error", "temperature"),
        ({"container": "c"}, 400, "invalid_request_error", "container"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            400,
            "invalid_request_error",
            "messages[0].content[0]: This model takes text only, but the block has type 'image'.",
        ),
        (
            {"messages": [{"role": "user", "content": "word " * 1000}]},
            400,
            "invalid_request_error",
            "prompt is too long: 1031 tokens > 512 maximum",
        ),
        ({"model": "claude"}, 404, "not_found_error", "tiny"),
    ],
    ids=["limit", "temperature", "container", "image", "long", "model"],
)
async def test_a_refusal_comes_before_the_stream(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, kind: str, words: str, stream: bool
) -> None:
    response = await client.post("/v1/messages", json=GOOD | fields | {"stream": stream})
    assert words in check_error(response, status, kind)


@pytest.mark.parametrize("path", ["/v1/messages", "/messages", "/v1/messages/count_tokens"])
async def test_errors_around_the_endpoints_have_the_same_shape(client: httpx.AsyncClient, path: str) -> None:
    check_error(await client.post(path, content=b"{"), 400, "invalid_request_error")
    check_error(await client.get(path), 405, "invalid_request_error")
    check_error(await client.post(f"{path}/none", json={}), 404, "not_found_error")
    check_error(await client.post(path, content=b" " * (2**25 + 1)), 413, "request_too_large")


async def test_a_body_that_grows_too_large_is_refused(start_server: StartServer, tiny_folder: object) -> None:
    server = start_server("--model", str(tiny_folder), SERVER_MAX_BODY_BYTES="1000")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def chunks() -> Any:
            for _ in range(4):
                yield b" " * 500

        message = check_error(await client.post("/v1/messages", content=chunks()), 413, "request_too_large")
        assert "1000 bytes" in message


async def test_a_path_that_only_begins_so_is_not_anthropics(client: httpx.AsyncClient) -> None:
    assert set((await client.post("/v1/messages_of", json={})).json()) == {"error"}


async def test_what_has_no_effect_is_named_in_a_header(client: httpx.AsyncClient) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        assert "warning" not in (await client.post(path, json=GOOD | {"metadata": {}})).headers
        odd = GOOD | {"service_tier": "auto", "tools": [{"type": "web_search_20250305", "name": "web_search"}]}
        told = await client.post(path, json=odd)
        expected = '299 mlx-gateway "ignored parameters: service_tier, tools[0].web_search_20250305"'
        assert told.headers["warning"] == expected


async def test_the_root_says_what_this_is(client: httpx.AsyncClient) -> None:
    about = await client.get("/")
    assert about.json()["name"] == "mlx-gateway"
    head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")


async def test_an_answer_goes_on_with_the_last_message(client: httpx.AsyncClient) -> None:
    """The same in all protocols: the prompt ends with these words, and the answer is what comes behind them."""
    body = GOOD | {"messages": [*HELLO, {"role": "assistant", "content": "Well then,"}]}
    message = (await client.post("/v1/messages", json=body)).json()
    alone = (await client.post("/v1/messages", json=GOOD)).json()
    usages = [each["usage"]["input_tokens"] + each["usage"]["cache_read_input_tokens"] for each in (alone, message)]
    assert usages[1] == usages[0] + 3
    text = message["content"][0]["text"]
    assert text
    assert not text.startswith("Well")
    chat = (await client.post("/v1/chat/completions", json=body | {"continue_final_message": True})).json()
    assert chat["choices"][0]["message"]["content"] == text
    assert chat["usage"]["prompt_tokens"] == usages[1]
    ollama = body | {"stream": False, "options": {"temperature": 0, "num_predict": 6}}
    assert (await client.post("/api/chat", json=ollama)).json()["message"]["content"] == text
