"""Streams and whole answers of OpenAI's responses, made from events and read by its own client's types."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ContextLengthExceeded, GatewayError, GenerationFailed, Overloaded, UnsupportedParameter
from gateway.generation.events import (
    Admitted,
    ChoiceFinished,
    ChosenLogprob,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolArguments,
    ToolCallBegan,
)
from gateway.protocols.openai_responses import ResponsesRequest, offered, parse_responses_request
from gateway.protocols.openai_responses_answer import ResponsesStream, whole_response
from gateway.protocols.responses_items import unsealed_reasoning
from tests.responses_stream import ReadResponse, read_responses_stream, valid_response

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "shell", "parameters": {"type": "object"}, "strict": False},
    {"type": "custom", "name": "apply_patch", "description": "Patches", "format": {"type": "text"}},
    {
        "type": "namespace",
        "name": "mcp__files__",
        "description": "Files",
        "tools": [{"type": "function", "name": "read"}, {"type": "custom", "name": "note"}],
    },
    {"type": "web_search"},
]
SETTINGS: dict[str, Any] = {
    "instructions": "Be brief",
    "tools": TOOLS,
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "shell"}]},
    "parallel_tool_calls": False,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
    "metadata": {"a": "b"},
    "max_output_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_logprobs": 2,
    "prompt_cache_key": "k",
}
LOGPROB = ChosenLogprob(TokenLogprob("a", b"a", -0.5), (TokenLogprob("b", b"b", -1.5),))


def asked(**fields: Any) -> ResponsesRequest:
    return parse_responses_request(msgspec.json.encode({"model": "m", "input": "Hello", "tools": TOOLS} | fields))


def answered(*deltas: Event, reason: FinishReason = "stop") -> list[Event]:
    return [Admitted(5), *deltas, ChoiceFinished(0, reason), Finished(5, 7, 3, 2)]


def streamed(events: Sequence[Event], **fields: Any) -> ReadResponse:
    request = asked(**fields)
    stream = ResponsesStream(request, offered(request))
    return read_responses_stream(b"".join(frame for event in events for frame in stream.frames(event)))


def whole(events: Sequence[Event], **fields: Any) -> dict[str, Any]:
    async def given_events() -> AsyncIterator[Event]:
        for event in events:
            yield event

    request = asked(**fields)
    response = asyncio.run(whole_response(given_events(), request, offered(request)))
    answer: dict[str, Any] = json.loads(msgspec.json.encode(response))
    return valid_response(answer)


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    output = [item | {"id": ""} for item in response["output"]]
    return response | {"id": "", "created_at": 0, "completed_at": 0, "output": output}


CALLS: list[Event] = [
    ToolCallBegan(0, 0, "call_1", "shell"),
    ToolArguments(0, 0, '{"a":'),
    ToolArguments(0, 0, "1}"),
    ToolCallBegan(0, 1, "call_2", "apply_patch"),
    ToolArguments(0, 1, '{"input": "*** Be'),
    ToolArguments(0, 1, 'gin\\n"}'),
    ToolCallBegan(0, 2, "call_3", "mcp__files__read"),
    ToolArguments(0, 2, "{}"),
    ToolCallBegan(0, 3, "call_4", "mcp__files__note"),
    ToolArguments(0, 3, '{"input": "n"}'),
    ToolCallBegan(0, 4, "call_5", "unknown"),
    ToolArguments(0, 4, "{}"),
]


def test_the_events_of_a_text_come_in_openais_order() -> None:
    read = streamed(answered(TextDelta(0, "Hel"), TextDelta(0, "lo")))
    assert read.names == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert read.final["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }
    (message,) = read.output
    assert message["content"] == [{"type": "output_text", "text": "Hello", "logprobs": [], "annotations": []}]


def test_reasoning_comes_before_the_text_as_an_item_of_its_own() -> None:
    read = streamed(answered(ReasoningDelta(0, "So"), ReasoningDelta(0, " it is"), TextDelta(0, "Hi")))
    assert read.names[2:9] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    reasoning, message = read.output
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "So it is"}]
    assert reasoning["summary"] == []
    assert "encrypted_content" not in reasoning
    assert message["content"][0]["text"] == "Hi"


def test_a_summary_and_sealed_reasoning_are_given_when_asked_for() -> None:
    fields = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    read = streamed(answered(ReasoningDelta(0, "So it is")), **fields)
    assert [name for name in read.names if "summary" in name] == [
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ]
    (reasoning,) = read.output
    assert reasoning["summary"] == [{"type": "summary_text", "text": "So it is"}]
    assert unsealed_reasoning(reasoning["encrypted_content"]) == "So it is"


def test_calls_go_back_under_the_names_that_the_client_knows() -> None:
    read = streamed(answered(TextDelta(0, "I look"), *CALLS, reason="tool_calls"))
    calls = [{key: call[key] for key in call if key not in ("id", "status")} for call in read.output[1:]]
    assert calls == [
        {"type": "function_call", "call_id": "call_1", "name": "shell", "arguments": '{"a":1}'},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "apply_patch", "input": "*** Begin\n"},
        {
            "type": "function_call",
            "call_id": "call_3",
            "name": "read",
            "arguments": "{}",
            "namespace": "mcp__files__",
        },
        {"type": "custom_tool_call", "call_id": "call_4", "name": "note", "input": "n", "namespace": "mcp__files__"},
        {"type": "function_call", "call_id": "call_5", "name": "unknown", "arguments": "{}"},
    ]
    assert read.final["status"] == "completed"


def test_logprobs_stand_with_their_text() -> None:
    read = streamed(answered(TextDelta(0, "a", (LOGPROB,)), TextDelta(0, "", (LOGPROB,))), top_logprobs=1)
    (message,) = read.output
    chosen = {"token": "a", "logprob": -0.5, "bytes": [97]}
    entry = chosen | {"top_logprobs": [{"token": "b", "logprob": -1.5, "bytes": [98]}]}
    assert message["content"][0]["logprobs"] == [entry, entry]


def test_a_cut_text_is_incomplete() -> None:
    read = streamed(answered(TextDelta(0, "Hel"), reason="length"))
    assert read.names[-1] == "response.incomplete"
    assert read.final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert read.final["completed_at"] is None
    assert read.output[0]["status"] == "incomplete"


@pytest.mark.parametrize("name", ["shell", "apply_patch"])
def test_a_cut_call_is_never_passed_off_as_whole(name: str) -> None:
    events = answered(
        TextDelta(0, "I"), ToolCallBegan(0, 0, "1", name), ToolArguments(0, 0, '{"input": "rm'), reason="length"
    )
    read = streamed(events)
    assert [item["type"] for item in read.output] == ["message"]
    assert not [name for name in read.names if "arguments.done" in name or "input.done" in name]
    assert [item["type"] for item in whole(events)["output"]] == ["message"]


def test_an_empty_answer_still_has_its_message() -> None:
    (message,) = streamed(answered()).output
    assert message["content"][0]["text"] == ""


def test_every_setting_is_told_as_it_was_asked_for() -> None:
    told = whole(answered(TextDelta(0, "{}")), **SETTINGS)
    assert {key: told[key] for key in SETTINGS if key != "tools"} == {
        key: value for key, value in SETTINGS.items() if key != "tools"
    }
    assert told["tools"] == TOOLS[:-1], "tools that have no effect are not settings"
    assert streamed(answered(TextDelta(0, "{}")), **SETTINGS).final["metadata"] == {"a": "b"}


def test_waiting_clients_get_events() -> None:
    request = asked()
    stream = ResponsesStream(request, offered(request))
    frames = [stream.keep_alive(), stream.keep_alive()]
    for event in answered(TextDelta(0, "Hel"), TextDelta(0, "lo")):
        frames += [*stream.frames(event), stream.keep_alive()]
    read = read_responses_stream(b"".join(frames))
    assert read.comments == 1, "nothing follows the end"
    assert read.names[:3] == ["response.created", "response.in_progress", "response.in_progress"]
    assert read.names.count("response.created") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GenerationFailed("The engine failed."), "server_error"),
        (Overloaded(3, 2, 7), "rate_limit_exceeded"),
        (UnsupportedParameter("No.", "input"), "invalid_prompt"),
    ],
)
@pytest.mark.parametrize("begun", [[], answered(TextDelta(0, "a"), ToolCallBegan(0, 0, "1", "shell"))[:-2]])
def test_a_failure_ends_the_stream_with_its_reason(error: GatewayError, code: str, begun: list[Event]) -> None:
    request = asked()
    stream = ResponsesStream(request, offered(request))
    frames = [frame for event in begun for frame in stream.frames(event)]
    read = read_responses_stream(b"".join([*frames, *stream.error_frames(error)]))
    assert read.names[-1] == "response.failed"
    assert read.final["error"]["code"] == code
    assert read.final["error"]["message"] == str(error)
    assert [item["type"] for item in read.output] == (["message"] if begun else [])


def test_a_prompt_that_is_too_long_has_the_code_that_codex_looks_for() -> None:
    """OpenAI's service sends it as well, though its client's type does not list it."""
    request = asked()
    stream = ResponsesStream(request, offered(request))
    *_, failed = stream.error_frames(ContextLengthExceeded(600, 512, "input"))
    error = json.loads(failed.split(b"data: ")[1])["response"]["error"]
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length" in error["message"]


FRAGMENTS = st.lists(st.text('ab"\\\n{}é🦜', max_size=5), max_size=4)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    events: list[Event] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["text", "reasoning", "shell", "apply_patch", "odd"]), max_size=6)):
        fragments = draw(FRAGMENTS)
        if kind == "text":
            logprobs = draw(st.sampled_from([(), (LOGPROB,)]))
            events += [TextDelta(0, fragment, logprobs) for fragment in fragments]
        elif kind == "reasoning":
            events += [ReasoningDelta(0, fragment) for fragment in fragments]
        else:
            written = json.dumps({"input": "".join(fragments)}) if draw(st.booleans()) else "".join(fragments)
            cut = draw(st.integers(0, len(written)))
            events.append(ToolCallBegan(0, calls, f"call_{calls}", kind))
            events += [ToolArguments(0, calls, written[:cut]), ToolArguments(0, calls, written[cut:])]
            calls += 1
    return answered(*events, reason=draw(st.sampled_from(["stop", "length", "tool_calls"])))


@given(events=answers(), summary=st.booleans(), waiting=st.integers(0, 20))
def test_any_stream_adds_up_to_the_whole_answer(events: list[Event], summary: bool, waiting: int) -> None:
    """The reader checks that every delta is in what is done, and what is done in the response."""
    fields: dict[str, Any] = {"reasoning": {"summary": "auto"}} if summary else {}
    request = asked(**fields)
    stream = ResponsesStream(request, offered(request))
    frames = []
    for number, event in enumerate(events):
        frames += [stream.keep_alive()] if number == waiting else []
        frames += stream.frames(event)
    read = read_responses_stream(b"".join(frames))
    assert without_ids(read.final) == without_ids(whole(events, **fields))
