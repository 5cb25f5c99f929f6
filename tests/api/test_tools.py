"""Calls of tools over HTTP, from a model that was never taught any and whose template has no place for them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest

from tests.agents_tools import SCHEMAS, tool
from tests.conftest import Server
from tests.sse import read_stream

MODEL = "SmolLM2-135M-Instruct"
ASK = [{"role": "user", "content": "Do it."}]


@pytest.fixture
async def client(demo_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=demo_server.url, timeout=120) as client:
        yield client


def body(*names: str, **fields: Any) -> dict[str, Any]:
    request = {"model": MODEL, "messages": ASK, "temperature": 0, "max_tokens": 300, "parallel_tool_calls": False}
    return request | {"tools": [tool(name) for name in names]} | fields


async def answer(client: httpx.AsyncClient, *names: str, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json=body(*names, **fields))
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    found: dict[str, Any] = choice
    return found


def check(call: dict[str, Any]) -> None:
    schema = SCHEMAS[call["function"]["name"]]
    jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema).validate(
        json.loads(call["function"]["arguments"])
    )


def test_there_are_forty_schemas() -> None:
    assert len(SCHEMAS) == 40


@pytest.mark.parametrize("name", SCHEMAS)
async def test_a_required_call_is_always_valid(client: httpx.AsyncClient, name: str) -> None:
    choice = await answer(client, name, tool_choice="required")
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == name
    assert not choice["message"]["content"]
    check(call)


async def test_a_required_call_is_of_one_of_the_tools_also_at_random(client: httpx.AsyncClient) -> None:
    choice = await answer(client, "list_files", "labels", "calendar", tool_choice="required", temperature=1.5, seed=1)
    (call,) = choice["message"]["tool_calls"]
    check(call)


async def test_the_named_tool_is_called(client: httpx.AsyncClient) -> None:
    for name in ("list_files", "calendar"):
        named = {"type": "function", "function": {"name": name}}
        choice = await answer(client, "list_files", "calendar", tool_choice=named)
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == name
        check(call)


async def test_calls_in_parallel_are_all_valid(client: httpx.AsyncClient) -> None:
    choice = await answer(client, "list_files", "range", tool_choice="required", parallel_tool_calls=True)
    whole = choice["message"]["tool_calls"]
    assert whole
    for call in whole:
        check(call)


async def test_the_grammar_takes_over_where_the_model_opens_a_call(client: httpx.AsyncClient) -> None:
    """The model opens calls when it is asked to say the mark; what comes of them is the grammar's."""
    calls: list[dict[str, Any]] = []
    for words in ("Say exactly: <tool_call>", "Write the tag <tool_call>", "Repeat: <tool_call>"):
        says = [{"role": "user", "content": words}]
        choice = await answer(client, "list_files", "calendar", messages=says, max_tokens=150)
        calls += choice["message"].get("tool_calls") or []
        assert "<tool_call>" not in (choice["message"]["content"] or "")
    assert calls
    for call in calls:
        check(call)


async def test_no_call_where_there_shall_be_none(client: httpx.AsyncClient) -> None:
    says = [{"role": "user", "content": "Say exactly: <tool_call>"}]
    choice = await answer(client, "calendar", messages=says, tool_choice="none", max_tokens=40)
    assert not choice["message"].get("tool_calls")
    assert "<tool_call>" not in choice["message"]["content"]


async def test_a_call_streams_with_its_name_first_and_its_arguments_in_parts(client: httpx.AsyncClient) -> None:
    whole = (await answer(client, "multi_edit", tool_choice="required"))["message"]["tool_calls"][0]["function"]
    stream = await read_stream(client, body("multi_edit", tool_choice="required", stream=True))
    deltas = [
        call
        for chunk in stream.chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert all(delta["index"] == 0 for delta in deltas)
    assert deltas[0]["id"]
    assert deltas[0]["function"]["name"] == "multi_edit"
    assert not any(delta.get("id") or delta["function"].get("name") for delta in deltas[1:])
    assert len(deltas) > 5
    assert "".join(delta["function"].get("arguments") or "" for delta in deltas) == whole["arguments"]
    assert stream.ended_with_done


async def test_results_come_back_as_text_and_the_prompt_only_grows(client: httpx.AsyncClient) -> None:
    """The second turn's prompt begins with the first's, so that it is not computed again."""
    fields = {"tools": [tool("list_files")], "tool_choice": "required"}
    first = (await client.post("/v1/chat/completions", json=body(**fields))).json()
    message = first["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "a.txt"}
    second = await client.post(
        "/v1/chat/completions",
        json=body(**fields | {"tool_choice": "auto", "messages": [*ASK, message, result], "max_tokens": 4}),
    )
    assert second.status_code == 200, second.text
    used = second.json()["usage"]
    assert used["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["prompt_tokens"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "odd"}}])
async def test_a_schema_that_cannot_be_enforced_is_refused_by_name(client: httpx.AsyncClient, choice: Any) -> None:
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "if": {}}}}
    request = body(tool_choice=choice) | {"tools": [tool("calendar"), odd]}
    response = await client.post("/v1/chat/completions", json=request)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "tools[1].function.parameters"
    assert "'if'" in error["message"]


async def test_where_the_model_may_choose_such_a_tool_takes_any_object_unless_it_is_strict(
    client: httpx.AsyncClient,
) -> None:
    function = {"name": "odd", "parameters": {"type": "object", "if": {}}}
    for strict, status in ((False, 200), (True, 400)):
        odd = {"type": "function", "function": function | {"strict": strict}}
        response = await client.post("/v1/chat/completions", json=body(max_tokens=4) | {"tools": [odd]})
        assert response.status_code == status, response.text


ODD = {"type": "object", "if": {}}
IN_OTHER_PROTOCOLS: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/responses": (
        {"input": "Hi", "tools": [{"type": "function", "name": "odd", "parameters": ODD}], "tool_choice": "required"},
        "tools[0].parameters",
    ),
    "/v1/messages": (
        {"messages": ASK, "tools": [{"name": "odd", "input_schema": ODD}], "tool_choice": {"type": "any"}},
        "tools[0].input_schema",
    ),
}


@pytest.mark.parametrize("route", IN_OTHER_PROTOCOLS)
async def test_other_protocols_name_their_own_field(client: httpx.AsyncClient, route: str) -> None:
    fields, param = IN_OTHER_PROTOCOLS[route]
    response = await client.post(route, json={"model": MODEL, "max_tokens": 9} | fields)
    assert response.status_code == 400
    assert param in response.text
