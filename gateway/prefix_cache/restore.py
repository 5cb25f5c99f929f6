"""How much of a prompt can be taken from what is cached, and which blobs that takes. Plain decisions, no mlx."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway.prefix_cache.cached_extent import Tier
from gateway.prefix_cache.extent import BlobKey, Part
from gateway.prefix_cache.token_tree import Match, Path, TokenTree


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model needs to go on after some tokens.

    - `full`: keys and values of all of them;
    - `window`: those of the last so many (the largest window of its layers), and of the first `sinks`;
    - `state`: the states after the last.
    """

    full: bool = True
    window: int | None = None
    sinks: int = 0
    state: bool = False

    @property
    def parts(self) -> list[Part]:
        needed = {Part.FULL: self.full, Part.WINDOW: self.window is not None, Part.STATE: self.state}
        return [part for part in Part if needed[part]]


class Read(NamedTuple):
    """Tokens `start` to `end` of the sequence, from one blob, leaving out the first `skip` of those that it has.

    Of a state, `start` and `end` are both the place it stands for.
    """

    key: BlobKey
    tier: Tier
    start: int
    end: int
    skip: int


@dataclass(frozen=True, slots=True)
class Restore:
    """The reads give all that is needed after `tokens` tokens, part by part and in order.

    No blob is read twice, except one that has the sinks and a part of the window.
    `evicted`: it could have been more, had nothing been dropped of the extents on the way.
    """

    tokens: int
    reads: tuple[Read, ...]
    evicted: bool


Range = tuple[int, int]
"""Tokens of the sequence, from and to."""


class _Source(NamedTuple):
    tokens: Range  # that it has; of a state, the place it stands for, twice
    key: BlobKey
    tier: Tier


def restorable(path: Path, needs: Needs, tree: TokenTree, tiers: Collection[Tier] = frozenset(Tier)) -> Restore:
    """The most of the path's tokens that these tiers have all that is needed for, from the fastest that has it.

    Call it before the tree changes. Takes time in proportion to the path's matches.
    """
    sources = {part: sorted(_sources(path, part, tree, tiers)) for part in needs.parts}
    ranges = {part: [source.tokens for source in found] for part, found in sources.items()}
    tokens = _most_tokens(path.tokens, needs, ranges)
    reads = [read for part, found in sources.items() for read in _reads(part, found, needs, tokens)]
    if tokens == path.tokens:
        return Restore(tokens, tuple(reads), evicted=False)
    once = {part: sorted([*found, *_lost(path, part, tree)]) for part, found in ranges.items()}
    return Restore(tokens, tuple(reads), evicted=_most_tokens(path.tokens, needs, once) > tokens)


def _sources(path: Path, part: Part, tree: TokenTree, tiers: Collection[Tier]) -> Iterator[_Source]:
    for match in path.matches:
        key = BlobKey(match.key, part)
        for tier in tiers:
            held = tree.held(key, tier)
            if held and (tokens := _range(match, part, held.first)):
                yield _Source(tokens, key, tier)


def _lost(path: Path, part: Part, tree: TokenTree) -> Iterator[Range]:
    for match in path.matches:
        one = tree.get(match.key)
        first = one.lost.get(part) if one else None
        if first is not None and (tokens := _range(match, part, first)):
            yield tokens


def _range(match: Match, part: Part, first: int) -> Range | None:
    """What a blob of this extent is good for on the way."""
    if part is Part.STATE:
        return (match.end, match.end) if match.whole else None
    start = match.start + first
    return (start, match.end) if start < match.end else None


def _most_tokens(limit: int, needs: Needs, ranges: Mapping[Part, Sequence[Range]]) -> int:
    """The largest n up to `limit` such that the sorted ranges have what is needed after n tokens."""
    if needs.full:
        limit = min(limit, next((end for start, end in _spans(ranges[Part.FULL]) if not start), 0))
    windows = _spans(ranges.get(Part.WINDOW, ()))
    if needs.state:
        places: Iterable[int] = (end for _, end in reversed(ranges[Part.STATE]) if end <= limit)
    elif needs.window is not None:
        places = (min(end, limit) for _, end in reversed(windows))
    else:
        places = (limit,)
    return next((place for place in places if _has_windows(place, needs, windows)), 0)


def _spans(ranges: Iterable[Range]) -> list[Range]:
    """The ranges, sorted by their starts, with those that touch or overlap joined."""
    joined: list[Range] = []
    for start, end in ranges:
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def _window_ranges(needs: Needs, tokens: int) -> list[Range]:
    """What window layers need after so many tokens."""
    if needs.window is None or not tokens:
        return []
    start, sinks = max(0, tokens - needs.window), min(needs.sinks, tokens)
    if start <= sinks:
        return [(0, tokens)]
    return [(0, sinks), (start, tokens)] if sinks else [(start, tokens)]


def _has_windows(place: int, needs: Needs, spans: Sequence[Range]) -> bool:
    for start, end in _window_ranges(needs, place):
        around = bisect_left(spans, (start + 1,)) - 1  # the last that starts at `start` or before
        if around < 0 or spans[around][1] < end:
            return False
    return True


def _reads(part: Part, sources: Sequence[_Source], needs: Needs, tokens: int) -> Iterator[Read]:
    if part is Part.STATE:
        here = {source.tier: source.key for source in sources if source.tokens[1] == tokens}
        yield from [Read(here[tier], tier, tokens, tokens, 0) for tier in Tier if tier in here][:1]
        return
    for start, end in [(0, tokens)] if part is Part.FULL else _window_ranges(needs, tokens):
        yield from _cover(sources, start, end)


def _cover(sources: Sequence[_Source], start: int, end: int) -> Iterator[Read]:
    """The reads that give the whole range, which the sources must have."""
    furthest: dict[Tier, _Source] = {}
    at, upcoming = start, 0
    while at < end:
        while upcoming < len(sources) and sources[upcoming].tokens[0] <= at:
            source = sources[upcoming]
            if source.tier not in furthest or source.tokens[1] > furthest[source.tier].tokens[1]:
                furthest[source.tier] = source
            upcoming += 1
        best = next(furthest[tier] for tier in Tier if tier in furthest and furthest[tier].tokens[1] > at)
        until = min(end, best.tokens[1])
        yield Read(best.key, best.tier, at, until, at - best.tokens[0])
        at = until
