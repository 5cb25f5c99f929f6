"""Ollama's API, the way out: events to lines of JSON or to one response.

Source: Ollama's API documentation (docs/api.md). Durations are in nanoseconds.
"""

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from gateway.errors import GatewayError
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
from gateway.generation.whole_answer import collect

Kind = Literal["chat", "generate"]

encode = msgspec.json.Encoder().encode


class CalledFunction(Struct, frozen=True):
    name: str
    arguments: dict[str, Any]


class AnswerToolCall(Struct, frozen=True):
    id: str
    function: CalledFunction


class AnswerMessage(Struct, frozen=True):
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[AnswerToolCall] | UnsetType = UNSET
    role: Literal["assistant"] = "assistant"


class Line(Struct, frozen=True):
    """Part of an answer, in `message` for a chat and in `response` for other texts; the last one has the figures."""

    model: str
    created_at: str
    done: bool
    message: AnswerMessage | UnsetType = UNSET
    response: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class ErrorLine(Struct, frozen=True):
    error: str


class Stopwatch:
    """When what happened to one request, in nanoseconds of a clock that only goes forward."""

    def __init__(self) -> None:
        self._started = time.perf_counter_ns()
        self._admitted = self._first = 0

    def note(self, event: Event) -> None:
        match event:
            case Admitted():
                self._admitted = time.perf_counter_ns()
            case TextDelta() | ReasoningDelta() | ToolCallBegan():
                self._first = self._first or time.perf_counter_ns()

    def figures(self, finished: Finished) -> dict[str, int]:
        """Until the request was understood counts as loading, until its first token as the prompt's evaluation."""
        now = time.perf_counter_ns()
        first = self._first or now
        return {
            "total_duration": now - self._started,
            "load_duration": self._admitted - self._started,
            "prompt_eval_count": finished.prompt_tokens,
            "prompt_eval_duration": first - self._admitted,
            "eval_count": finished.completion_tokens,
            "eval_duration": now - first,
        }


class OllamaStream:
    """One request's answer as lines of JSON, in bytes. Calls of tools come whole."""

    def __init__(self, model: str, kind: Kind) -> None:
        self._model = model
        self._kind = kind
        self._stopwatch = Stopwatch()
        self._call: tuple[ToolCallBegan, list[str]] | None = None
        self._reason: FinishReason = "stop"

    def frames(self, event: Event) -> Iterator[bytes]:
        self._stopwatch.note(event)
        if not isinstance(event, ToolArguments):
            cut_short = isinstance(event, ChoiceFinished) and event.reason == "length"
            if self._call and not cut_short:
                began, arguments = self._call
                calls = _called([ToolCall(began.id, began.name, "".join(arguments))])
                yield _line(part(self._model, self._kind, calls=calls))
            self._call = None
        match event:
            case TextDelta(_, text):
                yield _line(part(self._model, self._kind, text))
            case ReasoningDelta(_, text):
                yield _line(part(self._model, self._kind, thinking=text))
            case ToolCallBegan():
                self._call = (event, [])
            case ToolArguments(_, _, text):
                assert self._call
                self._call[1].append(text)
            case ChoiceFinished(_, reason):
                self._reason = reason
            case Finished():
                figures = self._stopwatch.figures(event)
                yield _line(part(self._model, self._kind, done_reason=_done_reason(self._reason), figures=figures))

    def error_frames(self, error: GatewayError) -> Iterator[bytes]:
        """Ends a stream that has begun."""
        yield encode(ErrorLine(str(error))) + b"\n"

    def keep_alive(self) -> bytes:
        return _line(part(self._model, self._kind))


async def whole_line(events: AsyncIterator[Event], model: str, kind: Kind) -> Line:
    """Collects all events into one response."""
    stopwatch = Stopwatch()

    async def noted() -> AsyncIterator[Event]:
        async for event in events:
            stopwatch.note(event)
            yield event

    answer = await collect(noted())
    choice = answer.choices[0]
    return part(
        model,
        kind,
        choice.text,
        choice.reasoning,
        _called(choice.calls),
        _done_reason(choice.reason),
        stopwatch.figures(answer.finished),
    )


def loaded_line(model: str, kind: Kind, done: Literal["load", "unload"]) -> Line:
    """The answer to a request that asks for nothing but that the model be there, or no more."""
    return part(model, kind, done_reason=done, figures={})


def part(
    model: str,
    kind: Kind,
    text: str = "",
    thinking: str = "",
    calls: list[AnswerToolCall] | None = None,
    done_reason: str | None = None,
    figures: dict[str, int] | None = None,
) -> Line:
    """One line; the last one of an answer if there is a `done_reason`."""
    fields: dict[str, Any] = {"done_reason": done_reason or UNSET, **(figures or {})}
    if kind == "chat":
        fields["message"] = AnswerMessage(text, thinking or UNSET, calls or UNSET)
    else:
        fields |= {"response": text, "thinking": thinking or UNSET}
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return Line(model, created, done_reason is not None, **fields)


def _line(line: Line) -> bytes:
    return encode(line) + b"\n"


def _called(calls: Iterable[ToolCall]) -> list[AnswerToolCall]:
    """Written anew: a line must hold no line break of a model's own."""
    return [AnswerToolCall(call.id, CalledFunction(call.name, _object(call.arguments))) for call in calls]


def _object(arguments: str) -> dict[str, Any]:
    """What is no object, which a stop string may leave, is nothing that can be said here."""
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}


def _done_reason(reason: FinishReason) -> str:
    return "length" if reason == "length" else "stop"
