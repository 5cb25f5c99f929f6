"""What happens to a request, in order: `Admitted`, then `TextDelta`s and one `ChoiceFinished` for every choice, then
`Finished`. An error ends the sequence by being raised."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its natural-log probability under the model, and its UTF-8 bytes (perhaps part of a character)."""

    text: str
    utf8: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ChosenLogprob:
    """The token that was generated and the likeliest alternatives, likeliest first."""

    token: TokenLogprob
    top: tuple[TokenLogprob, ...]


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
class ChoiceFinished:
    """One choice is complete."""

    choice: int
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Finished:
    """Every choice is complete. `completion_tokens` counts the tokens of all choices.

    `cached_tokens` of the prompt had been computed before and were not computed again.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


Event = Admitted | TextDelta | ChoiceFinished | Finished
