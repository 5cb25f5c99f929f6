"""Ollama's shapes, without a server."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from gateway.errors import ShuttingDown
from gateway.generation.events import (
    Admitted,
    ChoiceFinished,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolArguments,
    ToolCallBegan,
)
from gateway.generation.request import Conversation, FillIn, Message, Thinking, ToolCall
from gateway.protocols.json_body import decode_body
from gateway.protocols.ollama import (
    OllamaChat,
    OllamaGenerate,
    chat_to_text_request,
    generate_to_text_request,
    ollama_ignored_fields,
)
from gateway.protocols.ollama_answer import OllamaStream, whole_line

EVENTS: list[Event] = [
    Admitted(5),
    ReasoningDelta(0, "hm"),
    TextDelta(0, "I look."),
    ToolCallBegan(0, 0, "call_1", "read"),
    ToolArguments(0, 0, '{"path":\n'),
    ToolArguments(0, 0, ' "a"}'),
    ToolCallBegan(0, 1, "call_2", "list"),
    ToolArguments(0, 1, "{}"),
    ChoiceFinished(0, "tool_calls"),
    Finished(5, 9),
]
CALLS = [
    {"id": "call_1", "function": {"name": "read", "arguments": {"path": "a"}}},
    {"id": "call_2", "function": {"name": "list", "arguments": {}}},
]


def streamed(events: list[Event]) -> list[dict[str, Any]]:
    stream = OllamaStream("m", "chat")
    frames = [frame for event in events for frame in stream.frames(event)]
    assert all(frame.count(b"\n") == 1 for frame in frames)
    return [json.loads(frame) for frame in frames]


async def arriving(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


async def test_calls_come_whole_and_as_objects() -> None:
    parts = streamed(EVENTS)
    assert [call for part in parts for call in part["message"].get("tool_calls", [])] == CALLS
    assert parts[0]["message"]["thinking"] == "hm"
    assert (parts[-1]["done_reason"], parts[-1]["eval_count"]) == ("stop", 9)
    whole = json.loads(msgspec.json.encode(await whole_line(arriving(EVENTS), "m", "chat")))
    assert whole["message"] == {
        "role": "assistant",
        "content": "I look.",
        "thinking": "hm",
        "tool_calls": CALLS,
    }


async def test_a_call_that_is_cut_short_is_not_sent() -> None:
    events: list[Event] = [*EVENTS[:5], ChoiceFinished(0, "length"), Finished(5, 9)]
    parts = streamed(events)
    assert not any("tool_calls" in part["message"] for part in parts)
    assert parts[-1]["done_reason"] == "length"
    whole = json.loads(msgspec.json.encode(await whole_line(arriving(events), "m", "chat")))
    assert "tool_calls" not in whole["message"]


def test_waiting_and_failing_are_lines_too() -> None:
    stream = OllamaStream("m", "generate")
    waiting = json.loads(stream.keep_alive())
    assert (waiting["response"], waiting["done"]) == ("", False)
    (failed,) = [json.loads(frame) for frame in stream.error_frames(ShuttingDown())]
    assert failed.keys() == {"error"}


def test_a_conversation_with_tools() -> None:
    body = {
        "model": "m:latest",
        "think": "high",
        "messages": [
            {"role": "user", "content": "Read a."},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": CALLS[:1]},
            {"role": "tool", "tool_name": "read", "content": "text"},
        ],
        "tools": [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}],
        "options": {"seed": -1, "repeat_penalty": 1.1, "num_predict": -1, "stop": ["x"]},
    }
    request = chat_to_text_request(decode_body(json.dumps(body).encode(), OllamaChat))
    assert isinstance(request.prompt, Conversation)
    assert request.model == "m"
    assert request.prompt.thinking == Thinking(True, "high")
    assert request.prompt.messages[1] == Message(
        "assistant", "", (ToolCall("call_1", "read", '{"path":"a"}'),), reasoning="hm"
    )
    assert [tool.name for tool in request.prompt.tools] == ["read"]
    assert (request.sampling.seed, request.sampling.repetition_penalty, request.stop) == (None, 1.1, ("x",))
    assert request.max_tokens is None


def test_a_suffix_is_a_gap() -> None:
    body = b'{"model": "m", "prompt": "one", "suffix": "two", "options": {"num_predict": 5}, "format": ""}'
    request = generate_to_text_request(decode_body(body, OllamaGenerate))
    assert (request.prompt, request.max_tokens, request.grammar) == (FillIn("one", "two"), 5, None)


def test_a_result_that_names_its_tool_is_that_of_the_latest_call() -> None:
    read, other = CALLS
    messages = [
        {"role": "user", "content": "Read."},
        {"role": "assistant", "tool_calls": [read, other]},
        {"role": "tool", "tool_name": "list", "content": "a"},
        {"role": "tool", "tool_name": "read", "content": "b"},
        {"role": "assistant", "tool_calls": [read | {"id": "call_3"}]},
        {"role": "tool", "tool_name": "read", "content": "c"},
        {"role": "tool", "tool_name": "read", "tool_call_id": "call_1", "content": "d"},
        {"role": "tool", "tool_name": "write", "content": "e"},
    ]
    body = json.dumps({"model": "m", "messages": messages}).encode()
    prompt = chat_to_text_request(decode_body(body, OllamaChat)).prompt
    assert isinstance(prompt, Conversation)
    results = [message.tool_call_id for message in prompt.messages if message.role == "tool"]
    assert results == ["call_2", "call_1", "call_3", "call_1", ""]


def test_what_has_no_effect_beside_a_raw_prompt_or_a_gap_is_named() -> None:
    fields = {"model": "m", "prompt": "one", "system": "Be brief.", "think": False}
    for more, ignored in (
        ({"raw": True, "suffix": "two"}, ["suffix", "system", "think"]),
        ({"raw": True}, ["system", "think"]),
        ({"suffix": "two"}, ["system", "think"]),
        ({}, []),
    ):
        body = json.dumps(fields | more).encode()
        assert ollama_ignored_fields(body, decode_body(body, OllamaGenerate)) == ignored
