"""Anthropic's messages, the way out: events to stream frames or to one response.

Source: Anthropic API reference, "Messages" and "Streaming messages". A tool's id is the call's own, so that an answer
that comes back is known by it. Reasoning has no signature: nothing here checks one.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal
from uuid import uuid4

import msgspec
from msgspec import Struct, field

from gateway.errors import GatewayError, GenerationFailed
from gateway.generation.events import (
    Admitted,
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolArguments,
    ToolCallBegan,
)
from gateway.generation.request import ToolCall
from gateway.generation.whole_answer import WholeChoice, collect
from gateway.protocols.anthropic_errors import error_body

encode = msgspec.json.Encoder().encode

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
STOP_REASONS: dict[FinishReason, StopReason] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class Usage(Struct, frozen=True):
    """`input_tokens` are those that were computed anew; the prompt has these and the ones read from the cache."""

    input_tokens: int
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class ThinkingBlock(Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str = ""
    signature: str = ""


class TextBlock(Struct, frozen=True, tag_field="type", tag="text"):
    text: str = ""


class ToolUseBlock(Struct, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any] = field(default_factory=dict)


ContentBlock = ThinkingBlock | TextBlock | ToolUseBlock


class AnswerMessage(Struct, frozen=True):
    id: str
    model: str
    content: list[ContentBlock]
    usage: Usage
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    role: Literal["assistant"] = "assistant"
    type: Literal["message"] = "message"


class TokenCount(Struct, frozen=True):
    input_tokens: int


class MessagesStream:
    """One request's server-sent events, as bytes."""

    def __init__(self, model: str, request_id: str | None = None) -> None:
        self._model = model
        self._request_id = request_id
        self._blocks = 0  # that have begun
        self._open: type[ContentBlock] | None = None
        self._finished = ChoiceFinished(0, "stop")

    def frames(self, event: Event) -> Iterator[bytes]:
        """The frames of one event; `Finished` brings the last one."""
        match event:
            case Admitted(prompt_tokens):
                message = AnswerMessage(_new_id(), self._model, [], Usage(prompt_tokens))
                yield _frame("message_start", message=message)
            case ReasoningDelta(_, text) if text:
                yield from self._within(ThinkingBlock())
                yield self._delta("thinking_delta", thinking=text)
            case TextDelta(_, text) if text:
                yield from self._within(TextBlock())
                yield self._delta("text_delta", text=text)
            case ToolCallBegan(_, _, call_id, name):
                yield from self._close()
                yield from self._within(ToolUseBlock(call_id, name))
            case ToolArguments(_, _, text):
                yield self._delta("input_json_delta", partial_json=text)
            case ChoiceFinished():
                yield from self._close()
                self._finished = event
            case Finished():
                reason, stop_string = _stop(self._finished.reason, self._finished.stop_string)
                delta = {"stop_reason": reason, "stop_sequence": stop_string}
                yield _frame("message_delta", delta=delta, usage=_usage(event))
                yield _frame("message_stop")

    def error_frames(self, error: GatewayError) -> Iterator[bytes]:
        """Ends a stream that has begun."""
        yield b"event: error\ndata: " + encode(error_body(error, self._request_id)) + b"\n\n"

    def keep_alive(self) -> bytes:
        """A ping; within reasoning also an empty piece of it, because older Claude Code does not count pings."""
        ping = _frame("ping")
        return ping + self._delta("thinking_delta", thinking="") if self._open is ThinkingBlock else ping

    def _within(self, block: ContentBlock) -> Iterator[bytes]:
        """Opens the block unless one of its kind is open.

        It counts as open once its frame was taken, and no longer when the frame that closes it is: keep-alives come
        between frames.
        """
        if self._open is type(block):
            return
        yield from self._close()
        self._blocks += 1
        yield _frame("content_block_start", index=self._blocks - 1, content_block=block)
        self._open = type(block)

    def _close(self) -> Iterator[bytes]:
        closing, self._open = self._open, None
        if closing is ThinkingBlock:
            yield self._delta("signature_delta", signature="")
        if closing:
            yield _frame("content_block_stop", index=self._blocks - 1)

    def _delta(self, kind: str, **fields: str) -> bytes:
        return _frame("content_block_delta", index=self._blocks - 1, delta={"type": kind} | fields)


async def whole_message(events: AsyncIterator[Event], model: str) -> AnswerMessage:
    """Collects all events into one response."""
    answer = await collect(events)
    (choice,) = answer.choices
    reason, stop_string = _stop(choice.reason, choice.stop_string)
    return AnswerMessage(_new_id(), model, _content(choice), _usage(answer.finished), reason, stop_string)


def _content(choice: WholeChoice) -> list[ContentBlock]:
    """Blocks that are not empty."""
    content: list[ContentBlock] = []
    if choice.reasoning:
        content.append(ThinkingBlock(choice.reasoning))
    if choice.text:
        content.append(TextBlock(choice.text))
    return content + [ToolUseBlock(call.id, call.name, _input(call)) for call in choice.calls]


def _input(call: ToolCall) -> dict[str, Any]:
    """Raises `GenerationFailed` for what is no JSON object: this protocol has no way to send it."""
    try:
        return msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise GenerationFailed(
            f"The model called {call.name!r} with arguments that are no JSON object. Send the request again."
        ) from error


def _stop(reason: FinishReason, stop_string: str | None) -> tuple[StopReason, str | None]:
    """Calls count for more than the stop string behind them: a client runs them only when it is told of them."""
    if stop_string is None or reason == "tool_calls":
        return STOP_REASONS[reason], None
    return "stop_sequence", stop_string


def _usage(finished: Finished) -> Usage:
    computed = finished.prompt_tokens - finished.cached_tokens
    return Usage(computed, finished.completion_tokens, cache_read_input_tokens=finished.cached_tokens)


def _new_id() -> str:
    return f"msg_{uuid4().hex}"


def _frame(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: ".encode() + encode({"type": kind} | fields) + b"\n\n"
