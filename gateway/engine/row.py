"""One answer on its way through the engine. Belongs to the MLX thread."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.engine.constraint import Constraint, Words
from gateway.engine.prompt_lookup import LONGEST_DRAFT_TOKENS, PromptLookup
from gateway.engine.sampling import RowSampling
from gateway.engine.token_stream import TokenScores
from gateway.errors import GatewayError
from gateway.generation.adapter import BASE
from gateway.generation.events import FinishReason
from gateway.prefix_cache.extent import UNKNOWN, Standing


@dataclass(eq=False, slots=True)
class Row:
    """A choice of a request: its tokens so far and everything its next token depends on.

    `tokens` are the prompt's and the answer's. A row that was put back into the queue to make room starts again from
    them, and goes on as if nothing had happened. `mask` holds the tokens its grammar allows next. `standing` tells
    how much of it the prefix cache was given; of a `broken` row nothing shall be.
    """

    tokens: list[int]
    tokens_left: int
    end_tokens: frozenset[int]
    sampling: RowSampling
    constraint: Constraint | None = None
    lookup: PromptLookup | None = None
    mask: Words | None = None
    standing: Standing = UNKNOWN
    broken: bool = False
    adapter: str = BASE
    _proposal: "Proposal | None" = None

    def __post_init__(self) -> None:
        if self.constraint:
            self.mask = self.constraint.mask()

    def accept(self, token: int) -> FinishReason | None:
        """The row's next token is known; returns why it was the last, if it was. May raise a grammar's error."""
        self._proposal = None
        self.tokens.append(token)
        self.tokens_left -= 1
        self.sampling.advance(token)
        if self.lookup:
            self.lookup.advance(token)
        if token in self.end_tokens:
            return "stop"
        if not self.tokens_left:
            return "length"
        if self.constraint:
            self.constraint.advance(token)
            self.mask = self.constraint.mask()
        return None

    @property
    def proposal(self) -> "Proposal":
        """What its next pass could compute beyond the known token, as things stand; made once for a place."""
        if self._proposal is None:
            self._proposal = self._propose()
        return self._proposal

    def _propose(self) -> "Proposal":
        limit = min(LONGEST_DRAFT_TOKENS, self.tokens_left - 1)
        if limit < 1 or self.sampling.top_logprobs is not None:
            return NOTHING
        if forced := self._forced(limit):
            return Proposal(forced, len(forced), 1.0)
        if self.lookup and (proposed := self.lookup.propose(limit)):
            return Proposal(proposed, 0, self.lookup.acceptance)
        return NOTHING

    def _forced(self, limit: int) -> list[int]:
        """The coming tokens, as far as the grammar leaves no choice."""
        try:
            return self.constraint.forced(limit) if self.constraint else []
        except Exception:  # noqa: BLE001  (whatever is wrong with one grammar must not reach the other rows)
            return []  # it may still do for one token; else `accept` will say so


@dataclass(frozen=True, slots=True)
class Proposal:
    """Tokens that may come next, the first `forced` of them for certain, and the chance of each to hold if those before
    it do."""

    tokens: Sequence[int] = ()
    forced: int = 0
    chance: float = 0.0


NOTHING = Proposal()


@dataclass(frozen=True, slots=True)
class RowToken:
    """A token that a step gave one row."""

    row: Row
    token: int
    scores: TokenScores | None = None
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class RowFailure:
    """This row cannot go on; its neighbours can."""

    row: Row
    error: GatewayError


RowOutcome = RowToken | RowFailure


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that a row's next pass computes beyond the known one. The first `forced` of them are certain."""

    tokens: tuple[int, ...] = ()
    forced: int = 0
    masks: Sequence[Words] = ()
