"""Which checkpoints can go at the least cost. Plain decisions, no mlx.

A checkpoint is a place that a model can go on from although it has layers that cannot be cut back: where a state is
held, or keys and values of the window before it. They matter in two places: at the end of a sequence, which goes on
there; and where sequences part, as another may start there. In between they shorten the way back after an edit.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.prefix_cache.extent import BlobKey, Part
from gateway.prefix_cache.restore import Needs


@dataclass(frozen=True, slots=True)
class Link:
    """An extent, how it continues others, and what one tier has of it.

    `follows` is the latest extent that lies on its sequence as a whole; `before` are all that have the tokens before
    its first. `window_from` is the first token of the sequence that its window blob has.
    """

    start: int
    end: int
    follows: bytes | None
    before: Sequence[bytes]
    has_state: bool = False
    window_from: int | None = None

    def is_checkpoint(self, needs: Needs) -> bool:
        return self.has_state if needs.state else self.window_from is not None


def spare_checkpoints(links: Mapping[bytes, Link], needs: Needs) -> set[BlobKey]:
    """States and windows that are not worth their bytes. All of one model's extents, each after those it continues.

    What stays of a run of checkpoints, from one place where sequences part to the next or to an end: the last two, and
    so many before them that whoever goes back to any place computes less than twice what must be computed from
    there to the run's end. That is about two for each doubling of the distance from the end. The first of a sequence
    stays, too: others may come that begin with the same system prompt.
    """
    kept = _kept(links, needs)
    windows = _windows_for(kept, links, needs)
    spare = {BlobKey(key, Part.STATE) for key, link in links.items() if link.has_state and key not in kept}
    return spare | {
        BlobKey(key, Part.WINDOW) for key, link in links.items() if link.window_from is not None and key not in windows
    }


def _kept(links: Mapping[bytes, Link], needs: Needs) -> set[bytes]:
    latest: dict[bytes | None, bytes | None] = {None: None}  # by extent: the last checkpoint up to its end
    previous: dict[bytes, bytes | None] = {}  # by checkpoint
    for key, link in links.items():
        latest[key] = latest[link.follows]
        if link.is_checkpoint(needs):
            previous[key] = latest[key]
            latest[key] = key
    continued = Counter(previous.values())
    kept: set[bytes] = set()
    for end in previous:
        if continued[end] != 1:  # nothing follows, or sequences part here
            run = [end]
            while (before := previous[run[-1]]) is not None and continued[before] == 1:
                run.append(before)
            kept.update(_thinned(run, links, links[before].end if before else 0))
            if before is None:
                kept.add(run[-1])
    return kept


def _thinned(run: Sequence[bytes], links: Mapping[bytes, Link], floor: int) -> Iterator[bytes]:
    """Those of a run, given from its end back to behind `floor`, that stay."""
    yield from run[:2]
    places = [links[key].end for key in run] + [floor]
    stays = places[min(1, len(run) - 1)]
    for index in range(2, len(run)):
        before = places[index + 1]
        if 2 * (stays - before) > places[0] - before:
            stays = places[index]
            yield run[index]


def _windows_for(kept: set[bytes], links: Mapping[bytes, Link], needs: Needs) -> set[bytes]:
    """The extents whose windows the kept checkpoints need; where extents overlap, all that have the tokens."""
    if needs.window is None:
        return set()
    longer = defaultdict(list)
    for key, link in links.items():
        if link.follows is not None and links[link.follows].start == link.start:
            longer[link.follows].append(key)
    needed = {key for key, link in links.items() if link.start < needs.sinks}
    for checkpoint in kept:
        first = links[checkpoint].end - needs.window
        seen: set[bytes] = set()
        ahead = [checkpoint]
        while ahead:
            key = ahead.pop()
            if key in seen:
                continue
            seen.add(key)
            if links[key].start == links[checkpoint].start:
                ahead.extend(longer[key])
            if links[key].start > first:
                ahead.extend(links[key].before)
        needed |= seen
    return needed
