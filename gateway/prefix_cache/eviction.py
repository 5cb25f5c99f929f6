"""Which blobs leave a tier when it is full. Plain decisions, no mlx."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby, islice

from gateway.prefix_cache.cached_extent import MOST_SESSIONS, CachedExtent, Tier
from gateway.prefix_cache.extent import BlobKey, Part
from gateway.prefix_cache.restore import Needs
from gateway.prefix_cache.sessions import Live
from gateway.prefix_cache.thinning import Link, spare_checkpoints
from gateway.prefix_cache.token_tree import TokenTree

LIVE_IDLES_SLOWER = 4
"""By this factor the extents of a live session count as used more recently, beside the number of their sessions."""

EXPECTED_SHARE = 0.75
"""Of what a tier has; of more than that, what is expected competes with all else, lest newcomers never settle."""

GOES_FIRST = {Part.STATE: 0, Part.WINDOW: 1, Part.FULL: 2}


class Claim(IntEnum):
    """To stay: all of a lower one leave first."""

    SPARE = 0
    """A checkpoint that shortens the way back a little (see `thinning`)."""
    ORDINARY = 1
    EXPECTED = 2
    """What a live session is expected to go on from, and all that this builds on."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A blob in the tier. `idle_seconds` is since its last use, shorter for what is shared or of a live session."""

    key: BlobKey
    nbytes: int
    start: int
    claim: Claim
    idle_seconds: float


def candidates(tree: TokenTree, tier: Tier, needs: Needs, live: Live, now: float) -> list[Candidate]:
    """What the tier has of one model, for `victims`.

    No extent has a lesser claim, or idled for longer, than one that builds on it. Looks at every extent: evict seldom
    and much. `now` is on the clock of `TokenTree.touch`.
    """
    live_sessions = {hash(session) for session in live.sessions}
    expected = _with_all_before(live.tails, tree)
    spare = spare_checkpoints(_links(tree, tier), needs) if needs.state or needs.window is not None else set()
    found = []
    for one, used, sessions in _uses(tree):
        idle = max(0.0, now - used) / max(1, len(sessions))
        if len(sessions) == MOST_SESSIONS or not live_sessions.isdisjoint(sessions):
            idle /= LIVE_IDLES_SLOWER
        for (part, where), held in one.held.items():
            if where is tier:
                key = BlobKey(one.key, part)
                claim = Claim.EXPECTED if one.key in expected else Claim.ORDINARY
                found.append(Candidate(key, held.nbytes, one.start, Claim.SPARE if key in spare else claim, idle))
    return found


def victims(
    candidates: Iterable[Candidate], bytes_needed: int, slack_bytes: int = 0, pinned: Collection[BlobKey] = ()
) -> list[BlobKey]:
    """The blobs to drop for `bytes_needed`, first to go first; all but the pinned if that is not enough.

    By claim, then the longest idle first, then the furthest from the beginning of its sequence, so that leaves go
    before their roots. If bytes are needed at all, up to `slack_bytes` more are freed, so that this need not be asked
    for every blob; but not of what is expected to be used.
    """
    if bytes_needed <= 0:
        return []
    longest_idle_first = sorted(candidates, key=_idleness)
    protected = _protected(longest_idle_first)

    def turn(one: Candidate) -> Claim:
        return Claim.ORDINARY if one.claim is Claim.EXPECTED and one.key not in protected else one.claim

    going = []
    freed = 0
    for one in sorted(longest_idle_first, key=turn):
        if freed >= bytes_needed + (0 if one.key in protected else slack_bytes):
            break
        if one.key not in pinned:
            going.append(one.key)
            freed += one.nbytes
    return going


def _idleness(one: Candidate) -> tuple[float, int, int, bytes]:
    return -one.idle_seconds, -one.start, GOES_FIRST[one.key.part], one.key.extent


def _protected(longest_idle_first: Sequence[Candidate]) -> set[BlobKey]:
    """What is expected to be used, as much of it as may stay whatever else wants room."""
    protected = set()
    room = EXPECTED_SHARE * sum(one.nbytes for one in longest_idle_first)
    for one in reversed(longest_idle_first):
        if one.claim is Claim.EXPECTED:
            room -= one.nbytes
            if room < 0:
                break
            protected.add(one.key)
    return protected


def _uses(tree: TokenTree) -> Iterator[tuple[CachedExtent, float, Collection[int]]]:
    """Each extent, when it was used last and by which sessions, those that build on it included.

    A request names all extents of its sequence, but what was found on disk has the times of its files.
    """
    used = {one.key: one.used for one in tree}
    sessions = {one.key: one.sessions for one in tree}
    deepest_first = sorted(tree, key=_place)
    for _, starting_together in groupby(deepest_first, key=_place):
        group = list(starting_together)
        latest = max(used[one.key] for one in group)
        users = {session for one in group for session in sessions[one.key]}
        for before in tree.extents_before(group[0]):
            used[before.key] = max(used[before.key], latest)
            if missing := users.difference(sessions[before.key]):
                sessions[before.key] = (*sessions[before.key], *missing)[:MOST_SESSIONS]
    return ((one, used[one.key], sessions[one.key]) for one in deepest_first)


def _place(one: CachedExtent) -> tuple[int, bytes]:
    return -one.start, one.extent.parent


def _with_all_before(keys: Iterable[bytes], tree: TokenTree) -> set[bytes]:
    reached: set[bytes] = set()
    ahead = [one for key in keys if (one := tree.get(key))]
    while ahead:
        one = ahead.pop()
        if one.key not in reached:
            reached.add(one.key)
            ahead.extend(tree.extents_before(one))
    return reached


def _links(tree: TokenTree, tier: Tier) -> dict[bytes, Link]:
    links: dict[bytes, Link] = {}
    for one in sorted(tree, key=lambda one: (one.start, one.end)):
        before = tree.extents_before(one)
        window = one.held.get((Part.WINDOW, tier))
        links[one.key] = Link(
            one.start,
            one.end,
            _followed(one, before, tree, links),
            [other.key for other in before],
            (Part.STATE, tier) in one.held,
            one.start + window.first if window else None,
        )
    return links


def _followed(
    one: CachedExtent, before: Collection[CachedExtent], tree: TokenTree, links: dict[bytes, Link]
) -> bytes | None:
    """The latest extent that lies on the sequence of `one` as a whole."""
    whole = [*islice(tree.extents_within(one), 1), *(other for other in before if other.lies_before(one))]
    if whole:
        return max(whole, key=lambda other: other.end).key
    # It departs inside of those before it. What these follow themselves may end behind that place, too.
    key = next((links[other.key].follows for other in before), None)
    while key and (other := tree.get(key)) and not other.lies_before(one):
        key = links[key].follows
    return key
