"""What the official client makes of the answers: frames as they are sent, read by the real SDK."""

from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from typing import Any

import anthropic
import httpx2
import msgspec
import pytest
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ContextLengthExceeded, GatewayError, GenerationFailed, Overloaded, ShuttingDown
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
from gateway.protocols.anthropic_errors import error_body
from gateway.protocols.anthropic_messages_answer import MessagesStream, whole_message

FINISHED = Finished(prompt_tokens=20, completion_tokens=7, cached_tokens=16, reasoning_tokens=2)
CALLED: list[Event] = [
    ToolCallBegan(0, 0, "call_a", "read_file"),
    ToolArguments(0, 0, '{"path": '),
    ToolArguments(0, 0, '"a"}'),
]
TOOL_TURN: list[Event] = [
    Admitted(20),
    ReasoningDelta(0, "First "),
    ReasoningDelta(0, "think"),
    TextDelta(0, "I read "),
    TextDelta(0, "it"),
    *CALLED,
    ToolCallBegan(0, 1, "call_b", "now"),
    ToolArguments(0, 1, "{}"),
    ChoiceFinished(0, "tool_calls"),
    FINISHED,
]


def frames(events: Iterable[Event]) -> list[bytes]:
    stream = MessagesStream("m")
    return [frame for event in events for frame in stream.frames(event)]


def client_of(content: bytes) -> anthropic.Anthropic:
    """The SDK, in front of a server that answers with this stream."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=content, headers={"content-type": "text/event-stream"})

    return anthropic.Anthropic(
        api_key="none", max_retries=0, http_client=httpx2.Client(transport=httpx2.MockTransport(answer))
    )


def accumulated(sent: list[bytes]) -> Message:
    hello: Any = [{"role": "user", "content": "Hello"}]
    with client_of(b"".join(sent)).messages.stream(model="m", max_tokens=9, messages=hello) as stream:
        return stream.get_final_message()


async def whole(events: Iterable[Event]) -> Message:
    async def arriving() -> AsyncIterator[Event]:
        for event in events:
            yield event

    return Message.model_validate_json(msgspec.json.encode(await whole_message(arriving(), "m")))


def told(message: Message) -> dict[str, Any]:
    """Everything but the id, with the texts of one kind together: whole answers have one block of each."""
    blocks = message.content
    return message.model_dump(exclude={"id", "content"}, exclude_none=True) | {
        "thinking": "".join(block.thinking for block in blocks if block.type == "thinking"),
        "text": "".join(block.text for block in blocks if block.type == "text"),
        "calls": [(block.id, block.name, block.input) for block in blocks if block.type == "tool_use"],
    }


def names(sent: Iterable[bytes]) -> list[str]:
    return [frame.split(b"\n")[0].removeprefix(b"event: ").decode() for frame in sent]


async def test_a_turn_with_everything_in_it() -> None:
    message = accumulated(frames(TOOL_TURN))
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert told(message) == told(await whole(TOOL_TURN))
    assert told(message)["calls"] == [("call_a", "read_file", {"path": "a"}), ("call_b", "now", {})]
    assert (message.content[0].type, getattr(message.content[0], "signature", None)) == ("thinking", "")
    assert message.id.startswith("msg_")
    assert message.stop_reason == "tool_use"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (4, 16, 0)
    assert usage.output_tokens == 7


def test_frames_come_in_anthropics_order() -> None:
    block = ["content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"]
    assert (
        names(frames(TOOL_TURN))
        == [
            "message_start",
            *(*block[:3], *block[2:]),  # of reasoning, with its signature
            *block,
            *block,
            *(*block[:2], *block[3:]),
            "message_delta",
            "message_stop",
        ]
    )
    sent = [msgspec.json.decode(frame.split(b"data: ")[1]) for frame in frames(TOOL_TURN)]
    assert names(frames(TOOL_TURN)) == [data["type"] for data in sent]
    assert sent[0]["message"]["usage"]["input_tokens"] == 20
    assert sent[0]["message"]["stop_reason"] is None
    assert [data["delta"]["type"] for data in sent if "delta" in data and "index" in data] == [
        *["thinking_delta"] * 2,
        "signature_delta",
        *["text_delta"] * 2,
        *["input_json_delta"] * 3,
    ]


@pytest.mark.parametrize(
    ("finished", "reason", "stop_string"),
    [
        (ChoiceFinished(0, "stop"), "end_turn", None),
        (ChoiceFinished(0, "stop", "END"), "stop_sequence", "END"),
        (ChoiceFinished(0, "length"), "max_tokens", None),
        (ChoiceFinished(0, "tool_calls", "END"), "tool_use", None),
    ],
)
async def test_every_end(finished: ChoiceFinished, reason: str, stop_string: str | None) -> None:
    events: list[Event] = [Admitted(20), TextDelta(0, "a"), finished, FINISHED]
    for message in (accumulated(frames(events)), await whole(events)):
        assert (message.stop_reason, message.stop_sequence) == (reason, stop_string)


async def test_an_answer_of_nothing_has_no_block() -> None:
    events: list[Event] = [Admitted(20), TextDelta(0, ""), ChoiceFinished(0, "stop"), FINISHED]
    assert accumulated(frames(events)).content == (await whole(events)).content == []


async def test_a_call_that_the_limit_cuts_is_not_passed_off_as_whole() -> None:
    events: list[Event] = [Admitted(20), TextDelta(0, "a"), *CALLED[:2], ChoiceFinished(0, "length"), FINISHED]
    streamed = accumulated(frames(events))
    assert streamed.stop_reason == "max_tokens"
    assert [block.type for block in streamed.content] == ["text", "tool_use"]
    assert [block.type for block in (await whole(events)).content] == ["text"]


async def test_a_call_without_arguments_has_an_empty_object() -> None:
    events: list[Event] = [Admitted(20), CALLED[0], ChoiceFinished(0, "tool_calls"), FINISHED]
    assert told(accumulated(frames(events)))["calls"] == [("call_a", "read_file", {})]
    assert told(await whole(events)) == told(accumulated(frames(events)))


@pytest.mark.parametrize("arguments", ["{", "[]", "3"])
async def test_arguments_that_are_no_object_are_a_clear_failure(arguments: str) -> None:
    events: list[Event] = [
        Admitted(20),
        CALLED[0],
        ToolArguments(0, 0, arguments),
        ChoiceFinished(0, "tool_calls"),
        FINISHED,
    ]
    with pytest.raises(GenerationFailed, match="read_file"):
        await whole(events)


pieces = st.one_of(
    st.builds(ReasoningDelta, st.just(0), st.text(max_size=3)),
    st.builds(TextDelta, st.just(0), st.text(max_size=3)),
    st.lists(st.text(max_size=3), max_size=3).map(tuple),
)
"""A tuple stands for a call: the texts of its argument."""


def as_events(parts: list[Any]) -> list[Event]:
    events: list[Event] = [Admitted(20)]
    calls = 0
    for part in parts:
        if isinstance(part, tuple):
            arguments = msgspec.json.encode({"texts": part}).decode()
            cut = len(arguments) // 2
            events.append(ToolCallBegan(0, calls, f"call_{calls}", "f"))
            events += [ToolArguments(0, calls, text) for text in (arguments[:cut], arguments[cut:])]
            calls += 1
        else:
            events.append(part)
    return [*events, ChoiceFinished(0, "tool_calls" if calls else "stop"), FINISHED]


@given(st.lists(pieces, max_size=8))
async def test_a_stream_says_what_the_whole_answer_says(parts: list[Any]) -> None:
    events = as_events(parts)
    assert told(accumulated(frames(events))) == told(await whole(events))


@given(st.lists(pieces, max_size=8))
def test_a_keep_alive_may_come_behind_every_frame(parts: list[Any]) -> None:
    events = as_events(parts)
    stream = MessagesStream("m")
    sent = [stream.keep_alive()]
    for event in events:
        for frame in stream.frames(event):
            sent += [frame, stream.keep_alive()]
    assert told(accumulated(sent)) == told(accumulated(frames(events)))


@given(st.lists(pieces, max_size=8))
def test_one_block_is_open_at_a_time(parts: list[Any]) -> None:
    opened = [name for name in names(frames(as_events(parts))) if name in ("content_block_start", "content_block_stop")]
    assert opened[::2] == ["content_block_start"] * (len(opened) // 2)
    assert all(one != other for one, other in pairwise(opened))


def test_a_keep_alive_within_reasoning_is_a_piece_of_it() -> None:
    stream = MessagesStream("m")
    assert names([stream.keep_alive()]) == ["ping"]
    sent = [*stream.frames(Admitted(20)), *stream.frames(ReasoningDelta(0, "a")), stream.keep_alive()]
    assert sent[-1].startswith(b'event: ping\ndata: {"type":"ping"}\n\nevent: content_block_delta\n')
    list(stream.frames(TextDelta(0, "b")))
    assert names([stream.keep_alive()]) == ["ping"]


def test_an_error_inside_the_stream_reaches_the_client() -> None:
    stream = MessagesStream("m", "req-1")
    sent = [*stream.frames(Admitted(20)), *stream.frames(TextDelta(0, "a")), *stream.error_frames(ShuttingDown())]
    with pytest.raises(anthropic.APIStatusError) as caught:
        accumulated(sent)
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": str(ShuttingDown())},
        "request_id": "req-1",
    }


@pytest.mark.parametrize(
    ("error", "kind", "begins"),
    [
        (ContextLengthExceeded(600, 512), "invalid_request_error", "prompt is too long: 600 tokens > 512 maximum. "),
        (Overloaded(1, 1, 3), "rate_limit_error", "The server is busy"),
        (GenerationFailed("No"), "api_error", "No"),
        (GatewayError("No"), "api_error", "No"),
    ],
)
def test_errors_have_anthropics_types(error: GatewayError, kind: str, begins: str) -> None:
    body = error_body(error)
    assert body.error.type == kind
    assert body.error.message.startswith(begins)
