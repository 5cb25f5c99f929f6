"""What happens to a request, in order: perhaps `Waiting`, `Admitted`, then deltas and one `ChoiceFinished` for every
choice, then `Finished`. An error ends the sequence by being raised.

Deltas of one choice come in the order of its text. A tool call begins with `ToolCallBegan`, its arguments follow in
fragments; it is over when another delta or the end of the choice comes.
"""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "tool_calls"]
"""`tool_calls` is a `stop` after at least one whole call."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its natural-log probability under the model, and its UTF-8 bytes (perhaps part of a character)."""

    text: str
    utf8: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ChosenLogprob:
    """The token that was generated and the likeliest alternatives, likeliest first.

    Of the first token of an echoed prompt nothing is `known`: the model tells what follows a token.
    """

    token: TokenLogprob
    top: tuple[TokenLogprob, ...]
    known: bool = True


@dataclass(frozen=True, slots=True)
class Waiting:
    """The model is on its way into memory, or others are before this request; `why` says so in words."""

    why: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request was understood, fits, and has its place in the engine's queue."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of one choice, with log-probabilities if they were asked for."""

    choice: int
    text: str
    logprobs: tuple[ChosenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the reasoning that precedes a choice's text."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallBegan:
    """The choice calls a tool; its calls are numbered from 0. `id` is random."""

    choice: int
    call: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolArguments:
    """More of the JSON of a call's arguments."""

    choice: int
    call: int
    text: str


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """One choice is complete. `stop_string` is the one of the request's that ended it, if one did."""

    choice: int
    reason: FinishReason
    stop_string: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """Every choice is complete. `completion_tokens` counts the tokens of all choices.

    `cached_tokens` of the prompt had been computed before and were not computed again; `reasoning_tokens` are those of
    `completion_tokens` that were generated for reasoning.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


Delta = TextDelta | ReasoningDelta | ToolCallBegan | ToolArguments
Event = Waiting | Admitted | Delta | ChoiceFinished | Finished
