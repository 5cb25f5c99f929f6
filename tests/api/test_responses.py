"""Responses over HTTP: a real server with the tiny model."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.conftest import StartServer
from tests.responses_stream import ReadResponse, read_responses_stream, valid_response

HELLO = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": HELLO, "temperature": 0, "max_output_tokens": 6} | fields


async def answer(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/responses", json=body(**fields))
    assert response.status_code == 200, response.text
    return valid_response(response.json())


async def streamed(client: httpx.AsyncClient, **fields: Any) -> ReadResponse:
    response = await client.post("/v1/responses", json=body(stream=True, **fields))
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    return read_responses_stream(response.content)


def text(response: dict[str, Any]) -> str:
    (message,) = response["output"]
    (part,) = message["content"]
    said: str = part["text"]
    return said


async def test_a_whole_answer(client: httpx.AsyncClient) -> None:
    response = await answer(client)
    assert response["object"] == "response"
    assert response["model"] == "tiny"
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert text(response)
    usage = response["usage"]
    assert usage["output_tokens"] == 6
    assert usage["total_tokens"] == usage["input_tokens"] + 6


async def test_a_stream_says_the_same(client: httpx.AsyncClient) -> None:
    whole = await answer(client)
    read = await streamed(client)
    assert text(read.final) == text(whole)
    assert read.final["status"] == "incomplete"
    assert read.final["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert read.names.count("response.output_text.delta") >= 2


async def test_an_answer_that_the_model_ends_is_completed(client: httpx.AsyncClient) -> None:
    read = await streamed(client, logit_bias={"2": 100})
    assert read.names[-1] == "response.completed"
    assert text(read.final) == ""


async def test_the_prompt_is_the_one_of_a_chat(client: httpx.AsyncClient) -> None:
    """Instructions, developer messages and parts are but other words for the same messages."""
    items = [{"role": "developer", "content": "Be odd"}, *HELLO]
    response = await answer(client, instructions="Be brief", input=items)
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "system", "content": "Be odd"},
        {"role": "user", "content": "Hello"},
    ]
    chat = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 6}
    completion = (await client.post("/v1/chat/completions", json=chat)).json()
    assert text(response) == completion["choices"][0]["message"]["content"]
    assert response["usage"]["input_tokens"] == completion["usage"]["prompt_tokens"]


async def test_a_replayed_conversation_is_answered_from_the_cache(client: httpx.AsyncClient) -> None:
    first = [{"role": "user", "content": "Hello again " * 20}]
    earlier = await answer(client, input=first)
    replayed = [*first, *earlier["output"], {"role": "user", "content": "Go on"}]
    later = await answer(client, input=replayed)
    assert later["usage"]["input_tokens_details"]["cached_tokens"] > 0
    assert later["usage"]["input_tokens"] > earlier["usage"]["input_tokens"]


async def test_logprobs_are_those_of_the_text(client: httpx.AsyncClient) -> None:
    include = ["message.output_text.logprobs"]
    response = await answer(client, include=include, top_logprobs=2)
    entries = response["output"][0]["content"][0]["logprobs"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [2] * 6
    utf8 = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert utf8.decode(errors="replace") == text(response)
    read = await streamed(client, include=include, top_logprobs=2)
    assert read.output[0]["content"] == response["output"][0]["content"]


async def test_an_answer_in_the_form_of_a_schema(client: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    read = await streamed(client, text={"format": form}, max_output_tokens=60)
    assert "".join(text(read.final).split()) == '{"a":"b"}'
    assert read.final["text"]["format"] == form


@pytest.mark.parametrize("path", ["/v1/responses", "/responses"])
async def test_both_paths_answer(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, json=body())).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"previous_response_id": "resp_1"}, 400, "previous_response_id", "unsupported_parameter"),
        ({"background": True}, 400, "background", "unsupported_parameter"),
        ({"input": []}, 400, "input", "invalid_value"),
        ({"input": "word " * 600}, 400, "input", "context_length_exceeded"),
        ({"model": "gpt-4o"}, 404, "model", "model_not_found"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "strange"}}}},
            400,
            "text.format.schema",
            "invalid_value",
        ),
    ],
)
async def test_a_refusal_comes_before_the_stream(
    client: httpx.AsyncClient, fields: dict[str, Any], stream: bool, status: int, param: str, code: str
) -> None:
    response = await client.post("/v1/responses", json=body(stream=stream, **fields))
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_has_no_effect_is_named_in_a_header(client: httpx.AsyncClient, stream: bool) -> None:
    known = await client.post("/v1/responses", json=body(stream=stream, store=False, tool_choice="auto"))
    assert "warning" not in known.headers
    odd: list[dict[str, Any]] = [{"type": "web_search"}, {"type": 'odd"\r\ntype'}]
    told = await client.post("/v1/responses", json=body(stream=stream, store=True, user="u", tools=odd))
    assert told.headers["warning"] == (
        '299 mlx-gateway "ignored tools: odd___type, web_search; ignored parameters: store, user"'
    )


async def test_a_client_that_waits_gets_events(start_server: StartServer, tiny_folder: Any) -> None:
    """Two requests for one place: while the second waits, its stream is more than comments."""
    server = start_server("--model", str(tiny_folder), ENGINE_MAX_RUNNING="1", SERVER_KEEP_ALIVE_SECONDS="0.05")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        long = {"max_output_tokens": 400, "logit_bias": {"2": -100}}
        reads = await asyncio.gather(*(streamed(client, **long) for _ in range(3)))
    waiting = [read.names.index("response.output_item.added") for read in reads]
    assert max(waiting) > 3, "no event while it waited"
    assert len({text(read.final) for read in reads}) == 1
