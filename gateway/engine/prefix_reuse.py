"""What each waiting request can take from the prefix cache, and whether it shall wait for more.

Belongs to the MLX thread. A request waits while blobs that it needs are read from disk, and while another request
computes a long beginning that both share: so a repeated or retried prompt attaches to the one that is running, and
sessions that start together compute their common system prompt once.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.prefix_cache.extent import BLOCK_TOKENS, UNKNOWN, Standing
from gateway.prefix_cache.prefix_cache import Found, PrefixCache
from gateway.prefix_cache.reuse import Reuse
from gateway.prefix_cache.row_state import NO_PREFIX, Prefix

WORTH_READING_TOKENS = 2 * BLOCK_TOKENS
"""Fewer tokens are computed sooner than read from disk."""

WORTH_WAITING_TOKENS = 256
"""For what another prompt computes a request waits if it is so long, or half of what it would compute itself."""

MOST_CLAIMS = 32
"""So many requests that might start in one step are looked at by those behind them; more start together nowhere."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a row begins with, how it stands with the cache, and what to tell of it."""

    prefix: Prefix
    standing: Standing
    reuse: Reuse


@dataclass(slots=True)
class _Waiting:
    cache: PrefixCache
    found: Found
    asked_disk: bool = False
    reading: bool = False
    from_disk: int = 0  # tokens that reading brought
    awaited: bytes | None = None  # digest of the last block that another request computes
    shared: int = 0  # tokens that waiting for others brought


class PrefixReuse:
    def __init__(self, caches: Mapping[str, PrefixCache]) -> None:
        """`caches` by adapter: what one computed is of no use to another."""
        self._caches = caches
        self._waiting: dict[int, _Waiting] = {}
        self._coming: dict[bytes, int] = {}  # digests of blocks that are being computed, and by which ticket
        self._computing: dict[int, deque[tuple[int, bytes]]] = {}  # the same by ticket, with where each ends

    def submitted(self, ticket: int, tokens: list[int], adapter: str) -> None:
        if cache := self._caches.get(adapter):
            self._waiting[ticket] = _Waiting(cache, cache.find(tokens))

    def reusable(self, ticket: int) -> int:
        """Tokens of a waiting request's prompt that need not be computed, as far as that is known."""
        waiting = self._waiting.get(ticket)
        return waiting.found.in_ram.tokens if waiting else 0

    def reading(self, ticket: int) -> bool:
        """It waits for the disk: there is nothing to do for it."""
        waiting = self._waiting.get(ticket)
        return waiting is not None and waiting.reading

    def those_who_gain_nothing(self, tickets: Iterable[int]) -> Iterator[int]:
        """Of waiting requests, best first, those that gain nothing by waiting longer.

        What one of them would compute, those after it wait for, though it has not begun. May begin to read for others.
        """
        claimed: set[bytes] = set()
        claims = 0
        for ticket in tickets:
            if self._may_start(ticket, claimed):
                if claims < MOST_CLAIMS and (waiting := self._waiting.get(ticket)):
                    claims += 1
                    claimed.update(waiting.found.digests[waiting.found.in_ram.tokens // BLOCK_TOKENS :])
                yield ticket

    def _may_start(self, ticket: int, claimed: Collection[bytes]) -> bool:
        if (waiting := self._waiting.get(ticket)) is None:
            return True
        if waiting.reading or waiting.awaited in self._coming:
            return False
        if waiting.awaited:
            waiting.awaited = None
            waiting.shared += self._look_again(waiting)
        return not self._reads(waiting) and not self._awaits_another(waiting, claimed)

    def take(self, ticket: int, tokens: list[int], session: str, adapter: str) -> Taken:
        """What a request that starts now begins with; from now on it computes the rest of `tokens`."""
        if (cache := self._caches.get(adapter)) is None:
            return Taken(NO_PREFIX, UNKNOWN, Reuse(len(tokens)))
        waiting = self._waiting.pop(ticket, None)
        found = cache.find_again(waiting.found) if waiting else cache.find(tokens)
        reuse = cache.reuse(found, session)
        taken = cache.take(found, session)
        self._announce(ticket, found.digests, taken.tokens // BLOCK_TOKENS)
        disk = min(waiting.from_disk, taken.tokens) if waiting else 0
        shared = min(waiting.shared, taken.tokens - disk) if waiting else 0
        reuse = replace(reuse, ram=taken.tokens - disk - shared, disk=disk, shared=shared)
        return Taken(taken, found.standing(session, taken.tokens), reuse)

    def kept(self, ticket: int, tokens: int) -> None:
        """So much of what a request computes has been kept: nobody needs to wait for that any more."""
        computing = self._computing.get(ticket, ())
        while computing and computing[0][0] <= tokens:
            self._has_come(ticket, computing.popleft()[1])

    def ended(self, ticket: int) -> None:
        """A request's prompt is computed, or the request has gone."""
        self._waiting.pop(ticket, None)
        for _, digest in self._computing.pop(ticket, ()):
            self._has_come(ticket, digest)

    def _look_again(self, waiting: _Waiting) -> int:
        """How many tokens more can be taken by now."""
        before = waiting.found.in_ram.tokens
        waiting.found = waiting.cache.find_again(waiting.found)
        return max(0, waiting.found.in_ram.tokens - before)

    def _reads(self, waiting: _Waiting) -> bool:
        """Begins to read what only the disk has, once, if that is worth it."""
        found = waiting.found
        if waiting.asked_disk or found.anywhere.tokens - found.in_ram.tokens < WORTH_READING_TOKENS:
            return False
        waiting.asked_disk = True

        def has_come() -> None:
            waiting.reading = False
            waiting.from_disk += self._look_again(waiting)

        waiting.reading = waiting.cache.fetch(found, has_come)
        return waiting.reading

    def _awaits_another(self, waiting: _Waiting, claimed: Collection[bytes]) -> bool:
        found = waiting.found
        first = found.in_ram.tokens // BLOCK_TOKENS
        common = first
        while common < len(found.digests) and (
            found.digests[common] in self._coming or found.digests[common] in claimed
        ):
            common += 1
        tokens = (common - first) * BLOCK_TOKENS
        worth = min(WORTH_WAITING_TOKENS, max(2 * BLOCK_TOKENS, (found.prompt_tokens - found.in_ram.tokens) / 2))
        if tokens < worth:
            return False
        waiting.awaited = found.digests[common - 1] if found.digests[common - 1] in self._coming else None
        return True

    def _announce(self, ticket: int, digests: Sequence[bytes], first: int) -> None:
        computing = self._computing.setdefault(ticket, deque())
        for block in range(first, len(digests)):
            computing.append(((block + 1) * BLOCK_TOKENS, digests[block]))
            self._coming.setdefault(digests[block], ticket)

    def _has_come(self, ticket: int, digest: bytes) -> None:
        if self._coming.get(digest) == ticket:
            del self._coming[digest]
