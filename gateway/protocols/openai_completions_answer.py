"""OpenAI's completions, the way out: events to stream chunks or to one response.

Source: OpenAI API reference, "Completions"; the shape of its log-probabilities is older than that of chat completions.
"""

import time
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Literal
from uuid import uuid4

import msgspec
from msgspec import UNSET, Struct, UnsetType

from gateway.errors import GatewayError
from gateway.generation.events import ChoiceFinished, ChosenLogprob, Event, Finished, TextDelta, TokenLogprob
from gateway.generation.whole_answer import collect
from gateway.protocols.openai_chat_answer import DONE, KEEP_ALIVE, Usage, usage
from gateway.protocols.wire_errors import error_body

encode = msgspec.json.Encoder().encode


class Logprobs(Struct, frozen=True):
    """Four lists with an entry for each token; `text_offset` is where in the choice's text it begins, in characters."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct, frozen=True):
    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class Completion(Struct, frozen=True):
    """A chunk of a stream has the same shape."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType = UNSET
    object: Literal["text_completion"] = "text_completion"


class CompletionStream:
    """One request's server-sent events, as bytes."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._id = _new_id()
        self._created = int(time.time())
        self._model = model
        self._include_usage = include_usage
        self._logprobs: dict[int, _LogprobWriter] = {}

    def frames(self, event: Event) -> Iterator[bytes]:
        """The frames of one event; `Finished` brings the end marker."""
        match event:
            case TextDelta(choice, text, logprobs):
                written = self._logprobs.setdefault(choice, _LogprobWriter()).write(logprobs) if logprobs else None
                yield self._frame([CompletionChoice(choice, text, written)])
            case ChoiceFinished(choice, reason):
                yield self._frame([CompletionChoice(choice, "", finish_reason=reason)])
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

    def _frame(self, choices: list[CompletionChoice], of_all: Usage | UnsetType = UNSET) -> bytes:
        return b"data: " + encode(Completion(self._id, self._created, self._model, choices, of_all)) + b"\n\n"


async def whole_completion(events: AsyncIterator[Event], model: str, *, with_logprobs: bool) -> Completion:
    """Collects all events into one response; `with_logprobs` if they were asked for."""
    answer = await collect(events)
    choices = [
        CompletionChoice(
            number,
            choice.text,
            _LogprobWriter().write(choice.logprobs) if with_logprobs else None,
            choice.reason,
        )
        for number, choice in enumerate(answer.choices)
    ]
    return Completion(_new_id(), int(time.time()), model, choices, usage(answer.finished))


class _LogprobWriter:
    """Of one choice. The bytes of its tokens, one after the other, make its text."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def write(self, chosen: Sequence[ChosenLogprob]) -> Logprobs:
        written = Logprobs([], [], [], [])
        for entry in chosen:
            written.tokens.append(_name(entry.token))
            top = {_name(token): token.logprob for token in (*entry.top, entry.token)}
            written.token_logprobs.append(entry.token.logprob if entry.known else None)
            written.top_logprobs.append(top if entry.known else None)
            written.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(entry.token.utf8))
        return written


def _name(token: TokenLogprob) -> str:
    """The token's text; as OpenAI writes them, bytes that are no whole characters."""
    try:
        return token.utf8.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.utf8)


def _new_id() -> str:
    return f"cmpl-{uuid4().hex}"
