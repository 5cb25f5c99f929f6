"""The official Anthropic client against real servers."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.api.test_disconnect import metric, until
from tests.conftest import Server, StartServer

MODEL = "SmolLM2-135M-Instruct"
QUESTION: MessageParam = {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
GREEDY = {"temperature": 0}
"""Newer clients have no argument for it."""
TOOL: ToolParam = {"name": "read_file", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}


@pytest.fixture
def client(demo_server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=demo_server.url, api_key="none", max_retries=0) as client:
        yield client


def test_the_demo_model_answers(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=60, messages=[QUESTION], extra_body=GREEDY)
    (block,) = message.content
    assert block.type == "text"
    assert "Paris" in block.text
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message._request_id
    assert message._request_id.startswith("req-")


def test_a_stream_accumulates_to_the_whole_message(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 60, "messages": [QUESTION], "extra_body": GREEDY}
    client.messages.create(**asked)  # so that both below find the same prompt in the cache
    whole = client.messages.create(**asked)
    kinds, text = [], ""
    with client.messages.stream(**asked) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "text":
                text += event.text
        message = stream.get_final_message()
    streamed, at_once = [answer.model_dump(exclude={"id"}, exclude_none=True) for answer in (message, whole)]
    assert streamed == at_once
    assert [kind for kind in kinds if kind not in ("text", "content_block_delta")] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert message.content[0].type == "text"
    assert text == message.content[0].text


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model=MODEL, max_tokens=60, messages=[QUESTION], extra_body=GREEDY, stop_sequences=["Paris", "never"]
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "Paris")
    assert "Paris" not in "".join(block.text for block in message.content if block.type == "text")


def test_counted_tokens_are_the_usage(client: anthropic.Anthropic) -> None:
    """Over a conversation that went on with the answer, with a tool."""
    asked: dict[str, Any] = {"model": MODEL, "system": "Be brief.", "tools": [TOOL]}
    answer = client.messages.create(max_tokens=60, messages=[QUESTION], extra_body=GREEDY, **asked)
    turns: list[MessageParam] = [
        QUESTION,
        {"role": "assistant", "content": answer.content},
        {
            "role": "user",
            "content": [{"type": "text", "text": "And of Spain?", "cache_control": {"type": "ephemeral"}}],
        },
    ]
    usage = client.messages.create(max_tokens=4, messages=turns, **asked).usage
    counted = client.messages.count_tokens(messages=turns, **asked)
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert usage.cache_read_input_tokens


def test_beta_requests_are_served(client: anthropic.Anthropic) -> None:
    message = client.beta.messages.create(
        model=MODEL,
        max_tokens=4,
        betas=["context-management-2025-06-27"],
        messages=[{"role": "user", "content": "Hi"}],
        thinking={"type": "adaptive"},
        output_config={"effort": "low"},
    )
    assert message.usage.output_tokens == 4


def test_an_answer_in_a_form(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
    message = client.messages.create(
        model=MODEL,
        max_tokens=60,
        messages=[QUESTION],
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    assert message.content[0].type == "text"
    assert json.loads(message.content[0].text) == {"a": "x"}


def test_errors_are_the_clients_own_classes(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="claude-sonnet", max_tokens=4, messages=[QUESTION])
    assert missing.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: 90\d\d tokens > 8192 maximum"):
        client.messages.create(model=MODEL, max_tokens=4, messages=[{"role": "user", "content": "word " * 9000}])
    with pytest.raises(anthropic.BadRequestError, match="must not end with white space"):
        client.messages.create(model=MODEL, max_tokens=4, messages=[QUESTION, {"role": "assistant", "content": "{ "}])
    with pytest.raises(anthropic.RequestTooLargeError, match="request_too_large"):
        client.messages.create(model=MODEL, max_tokens=4, messages=[{"role": "user", "content": " " * 2**25}])


async def test_a_full_queue_and_a_stopping_server_are_told_apart(
    start_server: StartServer, tiny_folder: object
) -> None:
    """429 says when to come back; a stream that the server's end cuts gets an error of its own."""
    server = start_server(
        "--model",
        str(tiny_folder),
        ENGINE_MAX_RUNNING="1",
        ENGINE_MAX_WAITING="1",
        ENGINE_PREFILL_CHUNK_TOKENS="1",
        SERVER_SHUTDOWN_GRACE_SECONDS="0",
    )
    long: dict[str, Any] = {
        "model": "tiny",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "word " * 380}],
    }
    async with (
        anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client,
        httpx.AsyncClient(base_url=server.url, timeout=60) as probe,
    ):

        async def both_queued() -> bool:
            return await metric(probe, "vllm:num_requests_waiting") == 1

        async def streamed() -> None:
            async with client.messages.stream(**long) as stream:
                await stream.get_final_message()

        tasks = [asyncio.create_task(streamed()) for _ in range(2)]
        await until(both_queued)
        with pytest.raises(anthropic.RateLimitError) as refused:
            await client.messages.create(**long)
        assert refused.value.type == "rate_limit_error"
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
        assert server.stop() == 0
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, anthropic.APIStatusError)
            assert error.type == "overloaded_error"
