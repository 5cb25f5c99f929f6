"""mlx-lm's caches: a single prompt's own, or their batch forms once rows were added. Runs on the MLX thread.

Their rows are right-aligned: all of them advance together and none can be rewound.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from gateway.engine.row_caches import RowCaches
from gateway.prefix_cache.extent import Part
from gateway.prefix_cache.row_state import Piece, Prefix


class AlignedCaches:
    rewindable = False

    def __init__(self, layers: list[Any]) -> None:
        """`layers` are a prompt's own, or none for a batch."""
        self.layers = layers
        self.lengths: list[int] = []

    @property
    def arrays(self) -> list[Any]:
        return [layer.state for layer in self.layers]

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def room(self) -> tuple[int, int]:
        return 0, 0

    def commit(self, counts: Sequence[int]) -> None:
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def add_row(self, prefix: Prefix, more_tokens: int) -> None:
        assert not self.lengths
        self.lengths = [prefix.tokens]
        if prefix.tokens:
            _restore(list(leaves(self.layers)), prefix)

    def add(self, source: RowCaches, row: int, copies: int) -> None:
        assert isinstance(source, AlignedCaches)
        assert row == 0
        if copies == 1 and not self.layers and not all(hasattr(layer, "merge") for layer in source.layers):
            self.layers = source.layers  # of a kind that cannot be batched: a row by itself
        else:
            merged = [layer.merge([layer] * copies) for layer in source.layers]
            if self.layers:
                for mine, theirs in zip(self.layers, merged, strict=True):
                    mine.extend(theirs)
            else:
                self.layers = merged
        self.lengths += source.lengths * copies

    def take_over(self, source: RowCaches) -> bool:
        """A prompt's own caches are of another kind than those of a batch."""
        return False

    def export(self, row: int, start: int) -> Mapping[Part, Piece]:
        own = [leaf.extract(row) if hasattr(leaf, "extract") else leaf for leaf in leaves(self.layers)]
        return _export(own, start, self.lengths[row])

    def remove(self, rows: Sequence[int]) -> list[int]:
        kept = [row for row in range(len(self.lengths)) if row not in set(rows)]
        if not kept:
            self.layers = []
        elif len(kept) < len(self.lengths):
            for layer in self.layers:
                layer.filter(mx.array(kept))
        self.lengths = [self.lengths[row] for row in kept]
        return kept

    def fit(self) -> None:
        """They hold nothing more than their rows."""

    def grow(self, rows: int, tokens: int, parts: int) -> None:
        """mlx-lm's caches grow when rows are added."""


def part_of(leaf: Any) -> Part | None:
    """Which part of an extent holds this cache's content; None for a kind that cannot be taken apart."""
    match leaf:
        case KVCache():
            return Part.FULL
        case RotatingKVCache(keep=0):
            return Part.WINDOW
        case ArraysCache():
            return Part.STATE
        case _:
            return None


def leaves(caches: Iterable[Any]) -> Iterable[Any]:
    """The caches that hold arrays, in the model's order."""
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from leaves(cache.caches)
        else:
            yield cache


def _export(caches: Sequence[Any], start: int, end: int) -> dict[Part, Piece]:
    arrays: dict[Part, list[mx.array]] = {}
    first = dict.fromkeys(Part, start)
    for cache in caches:
        match cache:
            case KVCache():
                found = [cache.keys[0, :, start:end], cache.values[0, :, start:end]]
            case RotatingKVCache():
                kept = [cache._temporal_order(array)[0] for array in (cache.keys, cache.values)]
                width = min(end - start, kept[0].shape[1])
                found = [array[:, -width:] for array in kept]
                first[Part.WINDOW] = end - width
            case _:
                found = [array[0] for array in cache.cache if array is not None]
        arrays.setdefault(part_of(cache) or Part.STATE, []).extend(found)
    return {part: Piece(first[part], end, own) for part, own in arrays.items()}


def _restore(caches: Sequence[Any], prefix: Prefix) -> None:
    """Fills empty caches with a prefix; the arrays of each part are in the order in which `_export` gave them."""
    whole = {part: _Reader(prefix.parts.get(part, ())) for part in Part}
    for cache in caches:
        match cache:
            case KVCache():
                cache.keys, cache.values = whole[Part.FULL].take(2)
                cache.offset = prefix.tokens
            case RotatingKVCache():
                width = min(prefix.tokens, cache.max_size)
                cache.keys, cache.values = (array[:, :, -width:] for array in whole[Part.WINDOW].take(2))
                cache.offset, cache._idx = prefix.tokens, width
            case _:
                cache.cache = whole[Part.STATE].take(len(cache.cache))


class _Reader:
    """The arrays of one part's pieces, joined along the tokens and with a batch axis, one after the other."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._next = 0

    def take(self, count: int) -> list[mx.array]:
        indices = range(self._next, self._next + count)
        self._next += count
        if len(self._pieces) == 1:
            return [self._pieces[0].arrays[index][None] for index in indices]
        return [mx.concatenate([piece.arrays[index] for piece in self._pieces], axis=1)[None] for index in indices]
