"""Speculation without a draft model: an answer that repeats its prompt is guessed from it. Owned by the MLX thread.

Agents re-emit files with small changes, quote errors and fill in templates. What followed the last few tokens when
they occurred before is proposed as what follows now; the model then verifies several tokens in one pass
(https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

GRAM = 3
"""Tokens that must match for a source to be found anywhere."""

MOST_INDEXED = 262_144
"""Latest prompt tokens that are indexed; 12 bytes each, and 4 in every choice of the request."""

MOST_SOURCES = 8
"""Latest occurrences that are compared in a search."""

LOOKED_THROUGH = 256
"""Places of one hash that are compared at a time."""

LONGEST_MATCH = 32
"""Tokens beyond which a longer match makes no difference."""

NEARBY = 64
"""How far behind a lost source it is picked up again, and for how many tokens that is tried."""

LONGEST_DRAFT_TOKENS = 24
"""Tokens of a row that a pass computes beyond the known one, at most."""

SMALLEST_HIT_RATE = 0.45
"""Sources whose predictions come true less often are not proposed."""

MEMORY = 1 / 24
"""Weight of the newest prediction in a hit rate."""


class PromptIndex:
    """Where the grams of a prompt occur, for all choices of a request. Immutable.

    The places are sorted by a hash of their gram, half of it at a time, for which numpy needs linear time: for 100,000
    tokens 2 ms, where a dictionary takes 20 and ten times the memory.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self.tokens = array("I", prompt[-MOST_INDEXED:])
        self._ids = np.frombuffer(self.tokens, np.uint32)
        hashes = _hash(*(self._ids[place : self._ids.size + place + 1 - GRAM] for place in range(GRAM)))
        by_low_half = np.argsort(hashes.astype(np.uint16), kind="stable")
        by_high_half = np.argsort((hashes >> 16).astype(np.uint16)[by_low_half], kind="stable")
        self._starts = by_low_half[by_high_half].astype(np.uint32)
        self._hashes = hashes[self._starts]

    def latest_ends(self, most: int, gram: Sequence[int]) -> list[int]:
        """The ends of the gram's latest occurrences, the latest first. Takes microseconds."""
        hashed = np.uint32(_hash(*gram) & 0xFFFFFFFF)
        first = int(self._hashes.searchsorted(hashed))
        beyond = int(self._hashes.searchsorted(hashed, "right"))
        found: list[int] = []
        while first < beyond and len(found) < most:
            starts = self._starts[max(first, beyond - LOOKED_THROUGH) : beyond]
            beyond -= starts.size
            same = np.logical_and.reduce([self._ids[starts + place] == gram[place] for place in range(GRAM)])
            found += (starts[same] + GRAM)[::-1].tolist()
        return found[:most]


class PromptLookup:
    """Proposes what may come next for one row: what followed its latest tokens when they occurred before.

    The current *source* is a place in prompt or answer; its tokens are predictions, checked against every token that
    arrives, proposed or not. How often they come true is kept by length of match, so that matches of a kind that
    misleads in this text are not proposed until they have come true again; nothing has to be tried to find out.
    A source is followed until it is wrong, then picked up again close behind (a word was changed) or searched anew.
    """

    def __init__(self, prompt: PromptIndex) -> None:
        self._prompt = prompt
        self._tokens = prompt.tokens[:]
        # Of the answer's grams: the end of the latest occurrence, and for each end that of the same gram before it.
        self._latest: dict[tuple[int, ...], int] = {}
        self._previous: list[int] = []
        self._source: int | None = None
        self._matched = 0
        self._lost: int | None = None
        self._since_lost = 0
        self._longest = 8
        # By bit length of the match: 2-3, 4-7, 8-15, 16-31, 32 tokens.
        self._hit_rates = {2: 0.5, 3: 0.65, 4: 0.8, 5: 0.9, 6: 0.95}
        self._search()

    @property
    def acceptance(self) -> float:
        """The chance that the next proposed token is right, given those before it."""
        return 0.0 if self._source is None else self._hit_rates[self._matched.bit_length()]

    def advance(self, token: int) -> None:
        """Notes that `token` came next, in microseconds."""
        predicted = None if self._source is None else self._tokens[self._source]
        self._tokens.append(token)
        self._index_latest()
        self._since_lost += 1
        if self._source is not None:
            kind = self._matched.bit_length()
            self._hit_rates[kind] += MEMORY * ((predicted == token) - self._hit_rates[kind])
            if predicted == token:
                self._source += 1
                self._matched = min(self._matched + 1, LONGEST_MATCH)
                return
            self._lost, self._since_lost = self._source, 0
        self._search()

    def propose(self, limit: int) -> list[int]:
        """Up to `limit` tokens that may come next; none when nothing matches well."""
        if self._source is None or self.acceptance < SMALLEST_HIT_RATE:
            return []
        # A short match is seldom right for long, and each token counts only if those before it are right.
        length = min(limit, self._longest, self._matched)
        return self._tokens[self._source : self._source + length].tolist()

    def learn(self, proposed: int, accepted: int) -> None:
        """Notes that the first `accepted` of `proposed` tokens were right. Their `advance` is called as well."""
        if proposed and accepted == proposed:
            self._longest = min(LONGEST_DRAFT_TOKENS, self._longest + 4)
        elif accepted < proposed:
            self._longest = max(2, (self._longest + accepted) // 2)

    def _search(self) -> None:
        """Finds the source for what follows the last token."""
        self._source = self._nearby() or self._best_match()
        if self._source is not None:
            self._matched = self._match_length(self._source)

    def _nearby(self) -> int | None:
        """The place close behind a source just lost where the last two tokens match; of several the longest match."""
        if self._lost is None or self._since_lost > NEARBY:
            return None
        tokens, end = self._tokens, len(self._tokens)
        before_last, last = tokens[-2:]
        behind = enumerate(tokens[self._lost : min(self._lost + NEARBY, end - 1)], start=self._lost + 1)
        ends = [place for place, token in behind if token == last and tokens[place - 2] == before_last]
        return max(ends, key=self._match_length, default=None)

    def _best_match(self) -> int | None:
        """The place with the longest match; of several the latest."""
        best, longest = None, 0
        for end in self._earlier_ends():
            length = self._match_length(end)
            if length > longest:
                best, longest = end, length
        return best

    def _earlier_ends(self) -> list[int]:
        """Where the last gram ended before: the latest occurrences, the latest first."""
        end, prompt_end = len(self._tokens), len(self._prompt.tokens)
        if end < GRAM:
            return []
        ends: list[int] = []
        while end > prompt_end and len(ends) < MOST_SOURCES:
            if end := self._previous[end - prompt_end - 1]:
                ends.append(end)
        more = MOST_SOURCES - len(ends)
        if more:
            in_prompt = self._prompt.latest_ends(more + 1, self._tokens[-GRAM:])
            ends += [end for end in in_prompt if end < len(self._tokens)][:more]
        return ends

    def _match_length(self, end: int) -> int:
        """How many tokens before `end` are the last tokens."""
        tokens = self._tokens
        length, most = 0, min(end, LONGEST_MATCH)
        while length < most and tokens[end - 1 - length] == tokens[-1 - length]:
            length += 1
        return length

    def _index_latest(self) -> None:
        gram, end = tuple(self._tokens[-GRAM:]), len(self._tokens)
        self._previous.append(self._latest.get(gram, 0))
        self._latest[gram] = end


def _hash(first: Any, second: Any, third: Any) -> Any:
    """32 bits; of numbers without a limit the lowest 32."""
    mixed = (first * 0x9E3779B1 ^ second) * 0x85EBCA77 ^ third
    return mixed * 0xC2B2AE3D


def draft_lengths(
    proposals: Sequence[tuple[int, float]], decode_seconds: Callable[[int], float], most_slowdown: float = 2.0
) -> int:
    """How many tokens to draft for every row of a batch: what gives most tokens a second, 0 for none.

    `proposals` has each row's proposed length (0 for none) and the chance of each of its tokens to be accepted, given
    those before it. `decode_seconds` tells the length of a pass over the batch with so many tokens of each row. No
    row, with or without a proposal, is expected to run `most_slowdown` times slower than without speculation.
    """
    plain_seconds = decode_seconds(1)
    best, best_rate = 0, len(proposals) / plain_seconds
    gains = [1.0] * len(proposals)  # each row's expected tokens in the pass
    for drafted in range(1, max((length for length, _ in proposals), default=0) + 1):
        for row, (length, acceptance) in enumerate(proposals):
            if drafted <= length:
                gains[row] += acceptance**drafted
        seconds = decode_seconds(1 + drafted)
        tolerable = min(gains) * most_slowdown * plain_seconds >= seconds
        if tolerable and sum(gains) / seconds > best_rate:
            best, best_rate = drafted, sum(gains) / seconds
    return best
