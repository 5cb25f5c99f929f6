"""The index of what is cached of one model: which tokens, in which extents, in which tiers. No mlx, no caches here.

Invariants:

- An extent is here as long as a tier holds a blob of it; with the last blob it is forgotten.
- Extents may overlap, because sequences that begin alike were cut at different places. A block is known as long as any
  extent has it.
- An extent is found only if those before it are here, as far back as the beginning of its sequence.
"""

import sys
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway.prefix_cache.cached_extent import MOST_SESSIONS, CachedExtent, Held, Tier
from gateway.prefix_cache.extent import (
    BLOCK_BYTES,
    BLOCK_TOKENS,
    TOKEN_BYTES,
    BlobKey,
    Extent,
    Part,
    chain,
    chain_digests,
)
from gateway.prefix_cache.siblings import Siblings

REMEMBERED_BLOCKS = 2**16
"""Of those that were forgotten; 8 bytes each."""

CONTINUATION_TOKENS = 64


def token_bytes(ids: Sequence[int]) -> bytes:
    """As an extent's `tokens`. Raises OverflowError for an id that is not a uint32."""
    words = array("I", ids)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def token_ids(tokens: bytes, start: int, end: int) -> tuple[int, ...]:
    """The ids from `start` to `end` of what `token_bytes` made, as far as there are any."""
    words = array("I", tokens[max(0, start) * TOKEN_BYTES : end * TOKEN_BYTES])
    if sys.byteorder == "big":
        words.byteswap()
    return tuple(words)


class Match(NamedTuple):
    """An extent on a prompt's way: its tokens are the prompt's from `start` to `end`, and go on otherwise after that.

    `whole` if that is all of them.
    """

    key: bytes
    start: int
    end: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Path:
    """What the index knows of a prompt: its first `tokens` tokens, each in at least one of the `matches`.

    Matches are in the order of their starts and may overlap: which of them serves is decided when it is known what is
    held of each. `boundary` is the chain digest at the last block boundary up to `tokens`. `evicted`: the prompt's
    next block was known once.
    """

    tokens: int
    matches: tuple[Match, ...]
    boundary: bytes
    evicted: bool

    @property
    def keys(self) -> list[bytes]:
        """The extents that the prompt passes through; not those it has only the first few tokens of."""
        return [match.key for match in self.matches if match.whole or match.end - match.start >= BLOCK_TOKENS]


class Continuation(NamedTuple):
    """What had been cached in the place where a prompt departs. `own`: used by the same session."""

    tokens: tuple[int, ...]
    own: bool


class TokenTree:
    """The index of one namespace. Belongs to the MLX thread.

    Nothing here takes time that grows with the number of extents, except where it says so.
    """

    def __init__(self, namespace: bytes) -> None:
        self._namespace = namespace
        self._extents: dict[bytes, CachedExtent] = {}
        self._starting: dict[bytes, Siblings] = {}  # by the digest before them
        self._blocks: dict[bytes, dict[bytes, CachedExtent]] = {}  # by chain digest: the extents that have it, by key
        self._evicted = _LossyMemory(REMEMBERED_BLOCKS)
        self._bytes: Counter[Tier] = Counter()

    # --- look up

    def longest_prefix(self, tokens: bytes) -> Path:
        """The way of a prompt, given as `token_bytes`. About 1 ms for 100,000 tokens that are all known.

        Since a state cannot be cut back, and something must be computed to get an answer at all, ask for the prompt
        without its last token.
        """
        found: list[Match] = []
        digest, reach = self._namespace, 0  # bytes
        furthest: CachedExtent | None = None
        at = 0
        while True:
            if siblings := self._starting.get(digest):
                for one, shared in siblings.sharing(tokens, at):
                    end = (at + shared) // TOKEN_BYTES
                    found.append(Match(one.key, one.start, end, end == one.end))
                    if at + shared > reach:
                        reach, furthest = at + shared, one
            if furthest is None or at + BLOCK_BYTES > reach:
                break
            digest = furthest.digests[at // BLOCK_BYTES - furthest.start // BLOCK_TOKENS]
            at += BLOCK_BYTES
        last = at // TOKEN_BYTES
        matches = [one for one in found if one.whole or one.end - one.start >= BLOCK_TOKENS or one.start == last]
        departing = tokens[at : at + BLOCK_BYTES]
        evicted = len(departing) == BLOCK_BYTES and chain(digest, departing) in self._evicted
        return Path(reach // TOKEN_BYTES, tuple(matches), digest, evicted)

    def continuation(self, path: Path, session: str) -> Continuation | None:
        """What some cached sequence has where the prompt departs, rather the session's own than another's.

        Grows with the number of extents that start there; for explanations.
        """
        reaching = (match.key for match in path.matches if match.end == path.tokens and not match.whole)
        ahead = [self._extents[key] for key in reaching if key in self._extents]
        if path.tokens % BLOCK_TOKENS == 0:
            ahead.extend(self._starting.get(path.boundary, ()))
        if not ahead:
            return None
        best = max(ahead, key=lambda one: (one.was_used_by(session), one.used))
        first = path.tokens - best.start
        kept = token_ids(best.extent.tokens, first, first + CONTINUATION_TOKENS)
        return Continuation(kept, best.was_used_by(session))

    # --- what is held

    def hold(self, extent: Extent, part: Part, tier: Tier, nbytes: int, first: int = 0, used: float = 0.0) -> None:
        """Notes that a tier has a blob now, and the extent with it if it is new.

        `used` is when it was last used, in seconds on the clock of `touch`. Raises ValueError if the key is that of
        another extent: what one has must never be taken for what the other has.
        """
        one = self._extents.get(extent.key) or self._add(extent)
        if one.extent != extent:
            raise ValueError(
                f"extents of tokens {one.start} to {one.end} and {extent.start} to {extent.end} have the same key"
            )
        before = one.held.get((part, tier))
        one.held[part, tier] = Held(nbytes, first)
        one.lost.pop(part, None)
        one.used = max(one.used, used)
        self._bytes[tier] += nbytes - (before.nbytes if before else 0)

    def drop(self, key: BlobKey, tier: Tier) -> None:
        """Notes that a tier no longer has a blob; that it never had it is all right."""
        one = self._extents.get(key.extent)
        held = one.held.pop((key.part, tier), None) if one else None
        if one is None or held is None:
            return
        self._bytes[tier] -= held.nbytes
        if one.first_held(key.part) is None:
            one.lost[key.part] = held.first
        if not one.held:
            self._forget(one)

    def held(self, key: BlobKey, tier: Tier) -> Held | None:
        one = self._extents.get(key.extent)
        return one.held.get((key.part, tier)) if one else None

    def superseded(self, extent: Extent, tier: Tier) -> list[BlobKey]:
        """Blobs that the tier need not keep any longer, because what it holds of `extent` includes all they have.

        They are keys and values of extents that begin like it and end earlier. Their states are not in question: each
        is one of another place.
        """
        one = self._extents.get(extent.key)
        siblings = self._starting.get(extent.parent)
        if one is None or siblings is None:
            return []
        useless = []
        for shorter in siblings.beginnings(extent.tokens):
            for part in (Part.FULL, Part.WINDOW):
                old, new = shorter.held.get((part, tier)), one.held.get((part, tier))
                if old and new and new.first <= old.first:
                    useless.append(BlobKey(shorter.key, part))
        return useless

    def touch(self, keys: Iterable[bytes], session: str, now: float) -> None:
        """Notes that a request of the session used these extents: `Path.keys`, and those it left behind itself.

        Name all of a sequence, from its beginning on: what others build on must not look older than they do.
        """
        hashed = hash(session)
        for key in keys:
            if one := self._extents.get(key):
                one.used = max(one.used, now)
                one.last_session = session
                if hashed not in one.sessions and len(one.sessions) < MOST_SESSIONS:
                    one.sessions += (hashed,)

    # --- how extents follow each other

    def extents_before(self, one: CachedExtent) -> Collection[CachedExtent]:
        """Those that hold the block before it; all agree with its sequence as far as its start."""
        return self._blocks.get(one.extent.parent, {}).values()

    def extents_within(self, one: CachedExtent) -> Iterator[CachedExtent]:
        """Those that start where it does, have the same tokens and end earlier; longest first."""
        return self._starting[one.extent.parent].beginnings(one.extent.tokens)

    # --- for people and eviction

    def __len__(self) -> int:
        return len(self._extents)

    def __iter__(self) -> Iterator[CachedExtent]:
        return iter(self._extents.values())

    def get(self, key: bytes) -> CachedExtent | None:
        return self._extents.get(key)

    def nbytes(self, tier: Tier) -> int:
        return self._bytes[tier]

    def bytes_by_session(self, tier: Tier) -> Counter[str]:
        """What each session used last; "" for what none has used since the start. Looks at every extent."""
        by_session: Counter[str] = Counter()
        for one in self:
            by_session[one.last_session] += sum(held.nbytes for (_, where), held in one.held.items() if where is tier)
        return by_session

    # --- the index itself

    def _add(self, extent: Extent) -> CachedExtent:
        one = CachedExtent(extent, chain_digests(extent.parent, extent.tokens))
        self._extents[extent.key] = one
        self._starting.setdefault(extent.parent, Siblings()).add(one)
        for digest in one.digests:
            others = self._blocks.get(digest)
            if others is None:
                self._blocks[digest] = one.alone
            elif len(others) == 1:
                self._blocks[digest] = {**others, one.key: one}
            else:
                others[one.key] = one
        return one

    def _forget(self, one: CachedExtent) -> None:
        del self._extents[one.key]
        siblings = self._starting[one.extent.parent]
        siblings.remove(one)
        if not siblings:
            del self._starting[one.extent.parent]
        for digest in one.digests:
            self._evicted.add(digest)
            having = self._blocks[digest]
            if len(having) == 1:
                del self._blocks[digest]
            elif len(having) == 2:
                self._blocks[digest] = next(other.alone for other in having.values() if other is not one)
            else:
                del having[one.key]


class _LossyMemory:
    """Digests that were added, the latest at least: in fixed space, where a new one may overwrite any other."""

    def __init__(self, places: int) -> None:
        self._words = array("Q", bytes(8 * places))

    def add(self, digest: bytes) -> None:
        word = int.from_bytes(digest[:8], "big")
        self._words[word % len(self._words)] = word

    def __contains__(self, digest: bytes) -> bool:
        word = int.from_bytes(digest[:8], "big")
        return self._words[word % len(self._words)] == word
