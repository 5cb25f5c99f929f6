"""A row's place in its grammar, and the tokens that may come next. Does not import mlx."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher

from gateway.engine.token_budget import TokenBudget
from gateway.errors import GenerationFailed

Words = np.ndarray[Any, np.dtype[np.uint32]]
"""A mask: one bit for a token, the lowest of the first word for token 0."""


class CompiledGrammar:
    """A grammar and a model's tokenizer. Immutable; any thread."""

    def __init__(
        self, matcher: LLMatcher, vocabulary: int, end_tokens: Sequence[int], budget: TokenBudget | None = None
    ) -> None:
        """Raises GenerationFailed if no token of the model can be the first."""
        bits = np.zeros(-(-vocabulary // 32) * 32, dtype=np.uint8)
        bits[list(end_tokens)] = 1
        end_words: Words = np.packbits(bits, bitorder="little").view("<u4")
        self._beginning = Constraint(matcher, frozenset(end_tokens), end_words, budget)
        self._beginning.mask()  # so that no row has to find it

    def start(self) -> "Constraint":
        """A new row's place, before the first token of the answer; takes microseconds."""
        return self._beginning.copy()


class Constraint:
    """One row's place in its grammar. Owned by the MLX thread.

    Methods raise GenerationFailed when the grammar turns out too complex for the answer so far; the row is then lost.

    Finding what is forced at a place means to write all forced text in tokens, however long it is. So it is done once,
    and remembered until the text has been passed.
    """

    def __init__(
        self, matcher: LLMatcher, end_tokens: frozenset[int], end_words: Words, budget: TokenBudget | None = None
    ) -> None:
        self._matcher = matcher
        self._end_tokens = end_tokens
        self._end_words = end_words
        self._budget = budget  # None once the text that it limits is over
        self._mask: Words | None = None  # of this place, once it was asked for
        self._forced: list[int] | None = None  # the same; the first `_passed` of them are behind this place
        self._passed = 0

    def copy(self) -> "Constraint":
        """The same place, for another row."""
        budget = self._budget.copy() if self._budget else None
        other = Constraint(self._matcher.deep_copy(), self._end_tokens, self._end_words, budget)
        other._mask, other._forced, other._passed = self._mask, self._forced, self._passed
        return other

    def mask(self) -> Words:
        """The tokens that may come next, ceil(vocabulary / 32) words; all end tokens where the answer may end."""
        if self._mask is None:
            forced = self.forced(1)
            self._mask = self._only(forced[0]) if forced else self._computed_mask()
        return self._mask

    def advance(self, token: int) -> None:
        """Moves past a token of the answer, which must be one that the mask allows or the next forced one."""
        if not self._matcher.consume_token(token):
            self._raise_error()
            raise GenerationFailed(f"Token {token} came after the end of the answer.")
        if self._budget:
            self._budget.advance(token)
            if self._budget.over:
                self._budget = None
        expected = self._forced is not None and self._forced[self._passed : self._passed + 1] == [token]
        self._passed = self._passed + 1 if expected else 0
        if not expected or self._passed == len(self._forced or ()):
            self._forced, self._passed = None, 0
        self._mask = None

    def masks_along(self, draft: Sequence[int]) -> tuple[int, list[Words]]:
        """How many tokens of `draft` the masks allow one after the other, and the masks before each and after the last.

        The place stays as it is. Nothing is allowed after an end token.
        """
        ahead = self.copy()
        masks = [ahead.mask()]
        for accepted, token in enumerate(draft):
            ended = accepted > 0 and draft[accepted - 1] in self._end_tokens
            if ended or not allows(masks[-1], token):
                return accepted, masks
            ahead.advance(token)
            masks.append(ahead.mask())
        return len(draft), masks

    def forced(self, limit: int) -> list[int]:
        """Up to `limit` tokens that have no alternative from here, or [] if there is a choice.

        It is the forced text as the tokenizer writes it: another spelling of the same text would be in the grammar
        too, but the masks at these places allow these tokens alone.
        """
        if self._forced is None:
            self._forced = self._ending() or self._matcher.compute_ff_tokens()
            self._raise_error()
        return self._forced[self._passed : self._passed + limit]

    def _ending(self) -> list[int]:
        """The tokens that close a text with its limit behind it, unless it ends inside a character."""
        ending = list(self._budget.ending()) if self._budget else []
        return ending if self._matcher.validate_tokens(ending) == len(ending) else []

    def _computed_mask(self) -> Words:
        # llguidance allows an end token in a mask also when it failed, or where its text would do.
        words = np.frombuffer(self._matcher.compute_bitmask(), dtype="<u4")[: self._end_words.size]
        self._raise_error()
        may_end = self._matcher.is_stopped() or self._matcher.is_accepting()
        allowed: Words = words | self._end_words if may_end else words & ~self._end_words
        if not allowed.any():
            raise GenerationFailed("No token of the model continues the answer as its grammar asks.")
        return allowed

    def _only(self, token: int) -> Words:
        words: Words = np.zeros_like(self._end_words)
        words[token // 32] = 1 << token % 32
        return words

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            reason = first_line(self._matcher.get_error())
            raise GenerationFailed(f"The answer could not be kept within its grammar: {reason}.")


def allows(mask: Words, token: int) -> bool:
    return token < 32 * mask.size and bool(int(mask[token // 32]) >> (token % 32) & 1)


def first_line(text: str) -> str:
    return text.split("\n", 1)[0][:300].rstrip(".")
