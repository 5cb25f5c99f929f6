"""OpenAI's chat completions, the way out: events to stream chunks or to one response.

Source: OpenAI API reference, "Chat Completions" and "Chat Completions streaming".
"""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Literal
from uuid import uuid4

import msgspec
from msgspec import UNSET, Struct, UnsetType

from gateway.errors import GatewayError
from gateway.generation.events import (
    Admitted,
    ChoiceFinished,
    ChosenLogprob,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolArguments,
    ToolCallBegan,
)
from gateway.generation.whole_answer import WholeChoice, collect
from gateway.protocols.wire_errors import error_body

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
"""Never `ping`: a client's parser is known to lose frames that arrive with it."""

encode = msgspec.json.Encoder().encode


class Logprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class TopLogprob(Logprob, frozen=True):
    top_logprobs: list[Logprob]


class Logprobs(Struct, frozen=True):
    content: list[TopLogprob]
    refusal: None = None


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int = 0


class CompletionTokensDetails(Struct, frozen=True):
    reasoning_tokens: int = 0


class Usage(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class FunctionDelta(Struct, frozen=True):
    arguments: str
    name: str | UnsetType = UNSET


class ToolCallDelta(Struct, frozen=True):
    """The first of a call has `id`, `type` and `function.name`; all have its `index`."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class Delta(Struct, frozen=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True):
    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class Chunk(Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType = UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class CalledFunction(Struct, frozen=True):
    name: str
    arguments: str


class AnswerToolCall(Struct, frozen=True):
    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class AnswerMessage(Struct, frozen=True):
    """`content` is null in an answer that has no text but calls tools."""

    content: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[AnswerToolCall] | UnsetType = UNSET
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class AnswerChoice(Struct, frozen=True):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: str


class ChatCompletion(Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: list[AnswerChoice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"


class ChatStream:
    """One request's server-sent events, as bytes."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._id = _new_id()
        self._created = int(time.time())
        self._model = model
        self._include_usage = include_usage
        self._opened: set[int] = set()

    def frames(self, event: Event) -> Iterator[bytes]:
        """The frames of one event; `Finished` brings the end marker."""
        match event:
            case Admitted():
                return
            case TextDelta(choice, text, logprobs):
                yield from self._open(choice)
                yield self._choice(ChunkChoice(choice, Delta(content=text), _logprobs(logprobs)))
            case ReasoningDelta(choice, text):
                yield from self._open(choice)
                yield self._choice(ChunkChoice(choice, Delta(reasoning_content=text)))
            case ToolCallBegan(choice, call, call_id, name):
                yield from self._open(choice)
                begins = ToolCallDelta(call, FunctionDelta("", name), call_id, "function")
                yield self._choice(ChunkChoice(choice, Delta(tool_calls=[begins])))
            case ToolArguments(choice, call, text):
                more = ToolCallDelta(call, FunctionDelta(text))
                yield self._choice(ChunkChoice(choice, Delta(tool_calls=[more])))
            case ChoiceFinished(choice, reason):
                yield from self._open(choice)
                yield self._choice(ChunkChoice(choice, Delta(), finish_reason=reason))
            case Finished():
                if self._include_usage:
                    yield self._frame([], usage(event))
                yield DONE

    def error_frames(self, error: GatewayError) -> Iterator[bytes]:
        """Ends a stream that has begun."""
        yield b"data: " + encode(error_body(error)) + b"\n\n"
        yield DONE

    def keep_alive(self) -> bytes:
        return KEEP_ALIVE

    def _open(self, choice: int) -> Iterator[bytes]:
        """The first chunk of each choice carries the role."""
        if choice not in self._opened:
            self._opened.add(choice)
            yield self._choice(ChunkChoice(choice, Delta(role="assistant", content="")))

    def _choice(self, choice: ChunkChoice) -> bytes:
        return self._frame([choice])

    def _frame(self, choices: list[ChunkChoice], usage: Usage | UnsetType = UNSET) -> bytes:
        return b"data: " + encode(Chunk(self._id, self._created, self._model, choices, usage)) + b"\n\n"


async def whole_answer(events: AsyncIterator[Event], model: str, *, with_logprobs: bool) -> ChatCompletion:
    """Collects all events into one response; `with_logprobs` if they were asked for."""
    answer = await collect(events)
    choices = [
        AnswerChoice(
            number,
            _message(choice),
            Logprobs([_chosen(entry) for entry in choice.logprobs]) if with_logprobs else None,
            choice.reason,
        )
        for number, choice in enumerate(answer.choices)
    ]
    return ChatCompletion(_new_id(), int(time.time()), model, choices, usage(answer.finished))


def _message(choice: WholeChoice) -> AnswerMessage:
    calls = [AnswerToolCall(call.id, CalledFunction(call.name, call.arguments)) for call in choice.calls]
    return AnswerMessage(
        content=choice.text if choice.text or not calls else None,
        reasoning_content=choice.reasoning or UNSET,
        tool_calls=calls or UNSET,
    )


def _new_id() -> str:
    return f"chatcmpl-{uuid4().hex}"


def usage(finished: Finished) -> Usage:
    total = finished.prompt_tokens + finished.completion_tokens
    return Usage(
        finished.prompt_tokens,
        finished.completion_tokens,
        total,
        PromptTokensDetails(finished.cached_tokens),
        CompletionTokensDetails(finished.reasoning_tokens),
    )


def _logprobs(chosen: tuple[ChosenLogprob, ...]) -> Logprobs | None:
    """Those of one delta, if it carries any."""
    return Logprobs([_chosen(entry) for entry in chosen]) if chosen else None


def _chosen(entry: ChosenLogprob) -> TopLogprob:
    top = [_logprob(alternative) for alternative in entry.top]
    return TopLogprob(entry.token.text, entry.token.logprob, list(entry.token.utf8), top)


def _logprob(token: TokenLogprob) -> Logprob:
    return Logprob(token.text, token.logprob, list(token.utf8))
