"""The KV caches of rows that share forward passes. Everything here runs on the MLX thread.

`RaggedCaches` is the gateway's own, for models whose every layer attends to all earlier tokens: rows are left-aligned
and end where they end, so that a row joins by copying itself in, leaves without moving the others, and can be rewound
by itself (speculation). `AlignedCaches` holds everything else in mlx-lm's own batch caches, which are right-aligned:
all rows advance together and none can be rewound.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

GROWTH_TOKENS = 256
"""Buffers grow in these steps, as mlx-lm's do; `kv_layout` counts on it."""

MOST_SLACK = 2
"""Buffers keep up to so many times what their rows need, lest each that leaves costs a copy of all others."""


class RowCaches(Protocol):
    """`layers` is what the model takes as its cache; a forward pass of width w writes w tokens to every row.

    `commit` then says how many of them count; the rest is forgotten and overwritten.
    """

    layers: list[Any]
    rewindable: bool

    @property
    def arrays(self) -> list[Any]:
        """What must be evaluated for the last pass to be done."""

    @property
    def nbytes(self) -> int: ...

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""

    @property
    def room(self) -> tuple[int, int]:
        """Rows and tokens that the buffers have room for, where that may be more than what they hold."""

    def commit(self, counts: Sequence[int]) -> None: ...

    def add_empty(self, rows: int) -> None:
        """Appends rows without tokens."""

    def add(self, source: "RowCaches", row: int, copies: int) -> None:
        """Appends `copies` rows with the content of one row of `source`, which has the same kind."""

    def remove(self, rows: Sequence[int]) -> list[int]:
        """Drops rows. Returns the former numbers of those that stay, in their new order."""

    def fit(self) -> None:
        """Gives back all memory that is not needed now."""

    def grow(self, rows: int, tokens: int, parts: int) -> None:
        """Makes one part in `parts` of the room that is still missing for so many rows and tokens."""


class CacheFactory:
    """Makes the caches that suit one model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        kinds = make_prompt_cache(model)
        self._layers = len(kinds)
        self.ragged = all(type(kind) is KVCache for kind in kinds)
        self.batchable = all(hasattr(kind, "merge") for kind in kinds)

    def for_prompts(self) -> RowCaches:
        """No rows yet; empty ones are added, of which only ragged caches take more than one."""
        return RaggedCaches(self._layers) if self.ragged else AlignedCaches(make_prompt_cache(self._model))

    def for_decoding(self) -> RowCaches:
        """No rows yet; they are added from those of prompts."""
        return RaggedCaches(self._layers) if self.ragged else AlignedCaches([])


class RaggedCaches:
    """Row r holds `lengths[r]` tokens at the start of its part of every layer's buffer."""

    rewindable = True

    def __init__(self, layers: int) -> None:
        self.lengths: list[int] = []
        self.layers: list[Any] = [RaggedLayer(self) for _ in range(layers)]
        self._positions: dict[int, tuple[mx.array, mx.array]] = {}
        self._offset: int | mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        return [array for layer in self.layers for array in (layer.keys, layer.values) if array is not None]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def room(self) -> tuple[int, int]:
        keys = self.layers[0].keys
        return (0, 0) if keys is None else (keys.shape[0], keys.shape[2])

    @property
    def uniform(self) -> bool:
        return len(set(self.lengths)) <= 1

    @property
    def offset(self) -> int | mx.array:
        """Where each row's next token stands: one number if they agree, else an array (rows,)."""
        if self._offset is None:
            self._offset = self.longest if self.uniform else mx.array(self.lengths)
        return self._offset

    def commit(self, counts: Sequence[int]) -> None:
        self._set_lengths([length + count for length, count in zip(self.lengths, counts, strict=True)])

    def add_empty(self, rows: int) -> None:
        first = len(self.lengths)
        self._set_lengths(self.lengths + [0] * rows)
        for layer in self.layers:
            layer.wipe(first, rows, 0)

    def add(self, source: RowCaches, row: int, copies: int) -> None:
        assert isinstance(source, RaggedCaches)
        length = source.lengths[row]
        first = len(self.lengths)
        self._set_lengths(self.lengths + [length] * copies)
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            mine.copy_in(first, copies, theirs, row, length)

    def remove(self, rows: Sequence[int]) -> list[int]:
        """The last rows move into the gaps, so that only as many are copied as are dropped."""
        order, lengths = list(range(len(self.lengths))), list(self.lengths)
        for gap in sorted(set(rows), reverse=True):
            last = len(order) - 1
            if gap != last:
                for layer in self.layers:
                    layer.copy_in(gap, 1, layer, last, lengths[last])
                order[gap], lengths[gap] = order[last], lengths[last]
            order.pop()
            lengths.pop()
        self._set_lengths(lengths)
        self._shrink(MOST_SLACK)
        return order

    def fit(self) -> None:
        """Gives back all memory that is not needed now."""
        self._shrink(1)

    def grow(self, rows: int, tokens: int, parts: int) -> None:
        lacking = [layer for layer in self.layers if layer.lacks(rows, tokens)]
        for layer in lacking[: -(-len(lacking) // parts)]:
            layer.grow(rows, tokens)

    def _shrink(self, slack: int) -> None:
        for layer in self.layers:
            layer.shrink(len(self.lengths), max(1, self.longest), slack)

    def positions(self, width: int) -> tuple[mx.array, mx.array]:
        """Row numbers (rows, 1) and token positions (rows, width) of the coming pass."""
        if width not in self._positions:
            starts = mx.array(self.lengths)[:, None]
            self._positions[width] = mx.arange(len(self.lengths))[:, None], starts + mx.arange(width)
        return self._positions[width]

    def mask(self, width: int, return_array: bool, window_size: int | None) -> mx.array | str | None:
        """What the coming pass may attend to: everything before a token, within the window if there is one."""
        if self.uniform and window_size is None and not return_array:
            return None if width == 1 else "causal"
        queries = self.positions(width)[1][:, None, :, None]
        keys = mx.arange(self.longest + width)
        allowed = keys <= queries
        return allowed if window_size is None else allowed & (keys > queries - window_size)

    def _set_lengths(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self._positions, self._offset = {}, None


class RaggedLayer:
    """One layer's part, with the methods that mlx-lm's models call on a cache."""

    def __init__(self, rows: RaggedCaches) -> None:
        self._rows = rows
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    @property
    def offset(self) -> int | mx.array:
        return self._rows.offset

    def make_mask(
        self, width: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        return self._rows.mask(width, return_array, window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """`keys` and `values` (rows, heads, width, head size) are written behind each row's tokens."""
        rows, _, width, _ = keys.shape
        longest = self._rows.longest
        self._make_room(rows, longest + width, keys, values)
        assert self.keys is not None
        assert self.values is not None
        if self._rows.uniform:
            self.keys[:rows, :, longest : longest + width] = keys
            self.values[:rows, :, longest : longest + width] = values
        else:
            where = self._rows.positions(width)
            self.keys[where[0], :, where[1]] = keys.transpose(0, 2, 1, 3)
            self.values[where[0], :, where[1]] = values.transpose(0, 2, 1, 3)
        return self.keys[:rows, :, : longest + width], self.values[:rows, :, : longest + width]

    def copy_in(self, first: int, copies: int, source: "RaggedLayer", row: int, length: int) -> None:
        """Rows `first` on become copies of a row of `source`."""
        if length and source.keys is not None and source.values is not None:
            self._make_room(first + copies, length, source.keys, source.values)
            assert self.keys is not None
            assert self.values is not None
            self.keys[first : first + copies, :, :length] = source.keys[row : row + 1, :, :length]
            self.values[first : first + copies, :, :length] = source.values[row : row + 1, :, :length]
        self.wipe(first, copies, length)

    def wipe(self, first: int, rows: int, length: int) -> None:
        """Clears what earlier rows left behind `length` tokens: masked out it counts nothing, unless it is NaN."""
        if self.values is not None and first < self.values.shape[0]:
            self.values[first : first + rows, :, length:] = 0

    def lacks(self, rows: int, tokens: int) -> bool:
        """It has a buffer, but not one with so much room."""
        return self.keys is not None and (self.keys.shape[0] < rows or self.keys.shape[2] < tokens)

    def grow(self, rows: int, tokens: int) -> None:
        """Does at once what a pass would do later, when all layers need it."""
        assert self.keys is not None
        assert self.values is not None
        self._make_room(rows, tokens, self.keys, self.values)
        mx.eval(self.keys, self.values)

    def shrink(self, rows: int, tokens: int, slack: int) -> None:
        """Gives memory back when it holds more than `slack` times what is needed."""
        if self.keys is None or self.values is None:
            return
        held = self.keys.shape[0] * self.keys.shape[2]
        if not rows:
            self.keys = self.values = None
        elif slack * rows * _rounded(tokens) < held:
            old_keys, old_values = self.keys, self.values
            self.keys, self.values = _buffer(old_keys, rows, tokens), _buffer(old_values, rows, tokens)
            self.keys[:, :, :tokens] = old_keys[:rows, :, :tokens]
            self.values[:, :, :tokens] = old_values[:rows, :, :tokens]

    def _make_room(self, rows: int, tokens: int, like_keys: mx.array, like_values: mx.array) -> None:
        if self.keys is None or self.values is None:
            self.keys, self.values = _buffer(like_keys, rows, tokens), _buffer(like_values, rows, tokens)
            return
        held_rows, _, held_tokens, _ = self.keys.shape
        if rows <= held_rows and tokens <= held_tokens:
            return
        rows, tokens = max(rows, held_rows), max(tokens, held_tokens)
        old_keys, old_values = self.keys, self.values
        self.keys, self.values = _buffer(old_keys, rows, tokens), _buffer(old_values, rows, tokens)
        self.keys[:held_rows, :, :held_tokens] = old_keys
        self.values[:held_rows, :, :held_tokens] = old_values


def _buffer(like: mx.array, rows: int, tokens: int) -> mx.array:
    return mx.zeros((rows, like.shape[1], _rounded(tokens), like.shape[3]), like.dtype)


def _rounded(tokens: int) -> int:
    return -(-tokens // GROWTH_TOKENS) * GROWTH_TOKENS


class AlignedCaches:
    """mlx-lm's caches: a single prompt's own, or their batch forms once rows were added."""

    rewindable = False

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers
        self._lengths: list[int] = []

    @property
    def arrays(self) -> list[Any]:
        return [layer.state for layer in self.layers]

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    @property
    def longest(self) -> int:
        return max(self._lengths, default=0)

    @property
    def room(self) -> tuple[int, int]:
        return 0, 0

    def commit(self, counts: Sequence[int]) -> None:
        self._lengths = [length + count for length, count in zip(self._lengths, counts, strict=True)]

    def add_empty(self, rows: int) -> None:
        assert len(self._lengths) + rows == 1
        self._lengths = [0]

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
        self._lengths += source._lengths * copies

    def remove(self, rows: Sequence[int]) -> list[int]:
        kept = [row for row in range(len(self._lengths)) if row not in set(rows)]
        if not kept:
            self.layers = []
        elif len(kept) < len(self._lengths):
            for layer in self.layers:
                layer.filter(mx.array(kept))
        self._lengths = [self._lengths[row] for row in kept]
        return kept

    def fit(self) -> None:
        """They hold nothing more than their rows."""

    def grow(self, rows: int, tokens: int, parts: int) -> None:
        """mlx-lm's caches grow when rows are added."""
