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
    TextDelta,
    TokenLogprob,
)
from gateway.protocols.wire_errors import error_body

DONE = b"data: [DONE]\n\n"

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


class Usage(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()


class Delta(Struct, frozen=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


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


class AnswerMessage(Struct, frozen=True):
    content: str
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
            case ChoiceFinished(choice, reason):
                yield from self._open(choice)
                yield self._choice(ChunkChoice(choice, Delta(), finish_reason=reason))
            case Finished():
                if self._include_usage:
                    yield self._frame([], _usage(event))
                yield DONE

    def error_frames(self, error: GatewayError) -> Iterator[bytes]:
        """Ends a stream that has begun."""
        yield b"data: " + encode(error_body(error)) + b"\n\n"
        yield DONE

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
    texts: dict[int, list[str]] = {}
    logprobs: dict[int, list[ChosenLogprob]] = {}
    reasons: dict[int, str] = {}
    usage = Usage(0, 0, 0)
    async for event in events:
        match event:
            case TextDelta(choice, text, scores):
                texts.setdefault(choice, []).append(text)
                logprobs.setdefault(choice, []).extend(scores)
            case ChoiceFinished(choice, reason):
                reasons[choice] = reason
            case Finished():
                usage = _usage(event)
    choices = [
        AnswerChoice(
            choice,
            AnswerMessage("".join(texts.get(choice, ()))),
            Logprobs([_chosen(entry) for entry in logprobs.get(choice, ())]) if with_logprobs else None,
            reason,
        )
        for choice, reason in sorted(reasons.items())
    ]
    return ChatCompletion(_new_id(), int(time.time()), model, choices, usage)


def _new_id() -> str:
    return f"chatcmpl-{uuid4().hex}"


def _usage(finished: Finished) -> Usage:
    total = finished.prompt_tokens + finished.completion_tokens
    details = PromptTokensDetails(finished.cached_tokens)
    return Usage(finished.prompt_tokens, finished.completion_tokens, total, details)


def _logprobs(chosen: tuple[ChosenLogprob, ...]) -> Logprobs | None:
    """Those of one delta, if it carries any."""
    return Logprobs([_chosen(entry) for entry in chosen]) if chosen else None


def _chosen(entry: ChosenLogprob) -> TopLogprob:
    top = [_logprob(alternative) for alternative in entry.top]
    return TopLogprob(entry.token.text, entry.token.logprob, list(entry.token.utf8), top)


def _logprob(token: TokenLogprob) -> Logprob:
    return Logprob(token.text, token.logprob, list(token.utf8))
