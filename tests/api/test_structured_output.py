"""Answers that must match a grammar, over HTTP, from a model that would never do so by itself (random weights)."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest

from tests.conftest import Server
from tests.sse import read_stream

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "maxLength": 12},
        "mode": {"enum": ["read", "write"]},
        "lines": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 99}, "maxItems": 3},
    },
    "required": ["path", "mode", "lines"],
    "additionalProperties": False,
}
TOO_COMPLEX = {"type": "integer", "multipleOf": 1000003}


@pytest.fixture
async def client(tiny_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=tiny_server.url, timeout=120) as client:
        yield client


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Write."}], "max_tokens": 200} | fields


async def content(client: httpx.AsyncClient, **fields: Any) -> str:
    response = await client.post("/v1/chat/completions", json=body(**fields))
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop"
    text: str = choice["message"]["content"]
    return text


@pytest.mark.parametrize("temperature", [0, 1])
async def test_a_json_schema_is_kept(client: httpx.AsyncClient, temperature: int) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "call", "strict": True, "schema": SCHEMA}}
    jsonschema.validate(json.loads(await content(client, response_format=schema, temperature=temperature)), SCHEMA)


async def test_choices_expressions_and_grammars_are_kept(client: httpx.AsyncClient) -> None:
    assert await content(client, guided_choice=["yes", "no"]) in ("yes", "no")
    assert re.fullmatch(r"[a-f]{3}-\d+", await content(client, guided_regex=r"[a-f]{3}-\d{1,4}"))
    assert await content(client, guided_grammar='start: "a" "b"') == "ab"
    assert await content(client, structured_outputs={"choice": ["yes", "no"]}) in ("yes", "no")


async def test_a_schema_as_an_agents_tool_has_it_is_kept(client: httpx.AsyncClient) -> None:
    """Keywords that llguidance by itself would refuse."""
    schema = {
        "$schema": "https://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "path": {"type": "string", "format": "path", "maxLength": 12, "default": "."},
            "levels": {
                "type": "object",
                "propertyNames": {"type": "string", "enum": ["a", "b"]},
                "additionalProperties": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9},
            },
            "at": {"oneOf": [{"type": "integer", "minimum": 1, "maximum": 99}, {"type": "null"}, {"const": 100}]},
        },
        "required": ["path", "levels", "at"],
        "additionalProperties": False,
    }
    for temperature in (0, 1):
        answer = await content(client, structured_outputs={"json": schema}, temperature=temperature)
        jsonschema.Draft7Validator(schema).validate(json.loads(answer))


async def test_neighbours_of_a_constrained_answer_are_not_touched(client: httpx.AsyncClient) -> None:
    """Rows with grammars, seeds and log-probabilities in one batch: each is what it is alone."""
    requests: list[dict[str, Any]] = [
        {"guided_json": SCHEMA, "temperature": 0},
        {"temperature": 0, "max_tokens": 40},
        {"temperature": 1, "seed": 7, "max_tokens": 40},
        {"temperature": 0, "max_tokens": 20, "logprobs": True, "top_logprobs": 2},
        {"guided_regex": "(ab){20}", "temperature": 0},
    ]

    async def message(fields: dict[str, Any]) -> Any:
        return (await client.post("/v1/chat/completions", json=body(**fields))).json()["choices"][0]["message"]

    alone = [await message(fields) for fields in requests]
    assert await asyncio.gather(*map(message, requests)) == alone


async def test_a_constrained_stream_ends_well(client: httpx.AsyncClient) -> None:
    stream = await read_stream(client, body(guided_json=SCHEMA))
    jsonschema.validate(json.loads(stream.text), SCHEMA)
    assert stream.ended_with_done


async def test_grammars_that_take_long_to_refuse_delay_no_plain_request(client: httpx.AsyncClient) -> None:
    async def refused(number: int) -> None:
        schema = {"type": "integer", "multipleOf": 1000003 + 2 * number}
        assert (await client.post("/v1/chat/completions", json=body(guided_json=schema))).status_code == 400

    await client.post("/v1/chat/completions", json=body(guided_choice=["a"]))  # the tokenizer is prepared
    flood = [asyncio.create_task(refused(number)) for number in range(12)]
    await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    response = await client.post("/v1/chat/completions", json=body(max_tokens=2))
    assert response.status_code == 200
    assert not all(task.done() for task in flood)
    await asyncio.gather(*flood)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_grammar": "start: undefined_rule"}, "guided_grammar"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": {"type": "object", "if": {}}}, "guided_json"),
        ({"guided_json": "not json"}, "guided_json"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": TOO_COMPLEX}}},
            "response_format",
        ),
    ],
)
async def test_a_grammar_that_cannot_be_kept_is_refused_before_the_stream(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/chat/completions", json=body(stream=True, **fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
