"""KV caches of models whose every layer attends to all earlier tokens. Everything here runs on the MLX thread.

Rows are left-aligned and end where they end, so that a row joins by copying itself in, leaves without moving the
others, and can be rewound by itself (speculation).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from gateway.engine.row_caches import RowCaches
from gateway.prefix_cache.extent import Part
from gateway.prefix_cache.row_state import Piece, Prefix

GROWTH_TOKENS = 256
"""Buffers grow in these steps, as mlx-lm's do; `kv_layout` counts on it."""

QUANTIZED_GROUP = 64
"""Keys and values that share a scale; their size must be a multiple of it."""

MOST_ROOM_AHEAD = 1024
"""A row that begins with a prefix has room for so many tokens more, lest all of it is copied when it grows by a few."""

MOST_SLACK = 2
"""Buffers keep up to so many times what their rows need, lest each that leaves costs a copy of all others."""


class RaggedCaches:
    """Row r holds `lengths[r]` tokens at the start of its part of every layer's buffer."""

    rewindable = True

    def __init__(self, layers: int, kv_bits: int = 0) -> None:
        """`kv_bits` 0 keeps keys and values as they are, else in so many bits."""
        self.lengths: list[int] = []
        self.layers: list[Any] = [
            QuantizedRaggedLayer(self, kv_bits) if kv_bits else RaggedLayer(self) for _ in range(layers)
        ]
        self._positions: dict[int, tuple[mx.array, mx.array]] = {}
        self._offset: int | mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        return [array for layer in self.layers for array in layer.buffers]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def room(self) -> tuple[int, int]:
        buffers = self.layers[0].buffers
        return (buffers[0].shape[0], buffers[0].shape[2]) if buffers else (0, 0)

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

    def add_row(self, prefix: Prefix, more_tokens: int) -> None:
        row = len(self.lengths)
        self._set_lengths([*self.lengths, prefix.tokens])
        pieces = prefix.parts.get(Part.FULL, ())
        room = prefix.tokens + min(more_tokens, MOST_ROOM_AHEAD)
        for index, layer in enumerate(self.layers):
            if pieces:
                each = len(pieces[0].arrays) // len(self.layers)
                own = range(index * each, (index + 1) * each)
                layer.write(row, room, [[piece.arrays[place] for piece in pieces] for place in own])
            layer.wipe(row, 1, prefix.tokens)

    def add(self, source: RowCaches, row: int, copies: int) -> None:
        assert isinstance(source, RaggedCaches)
        length = source.lengths[row]
        first = len(self.lengths)
        self._set_lengths(self.lengths + [length] * copies)
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            mine.copy_in(first, copies, theirs, row, length)

    def take_over(self, source: RowCaches) -> bool:
        assert isinstance(source, RaggedCaches)
        if self.lengths or any(layer.buffers for layer in self.layers):
            return False
        self._set_lengths(source.lengths)
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            mine.buffers, theirs.buffers = theirs.buffers, []
        return True

    def export(self, row: int, start: int) -> Mapping[Part, Piece]:
        end = self.lengths[row]
        arrays = [array[row, :, start:end] for array in self.arrays]
        return {Part.FULL: Piece(start, end, arrays)}

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
    """One layer's part, with the methods that mlx-lm's models call on a cache.

    `buffers` are the arrays of keys and then those of values, one each here: (rows, heads, tokens, size).
    """

    def __init__(self, rows: RaggedCaches) -> None:
        self.buffers: list[mx.array] = []
        self._rows = rows

    @property
    def offset(self) -> int | mx.array:
        return self._rows.offset

    def make_mask(
        self, width: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        return self._rows.mask(width, return_array, window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """`keys` and `values` (rows, heads, width, head size) are written behind each row's tokens."""
        rows, _, width, _ = keys.shape
        longest = self._rows.longest
        written = [*self._encoded(keys), *self._encoded(values)]
        self._make_room(rows, longest + width, written)
        where = self._rows.positions(width)
        for buffer, new in zip(self.buffers, written, strict=True):
            if self._rows.uniform:
                buffer[:rows, :, longest : longest + width] = new
            else:
                buffer[where[0], :, where[1]] = new.transpose(0, 2, 1, 3)
        seen = [buffer[:rows, :, : longest + width] for buffer in self.buffers]
        return self._as_read(seen[: len(seen) // 2]), self._as_read(seen[len(seen) // 2 :])

    def copy_in(self, first: int, copies: int, source: "RaggedLayer", row: int, length: int) -> None:
        """Rows `first` on become copies of a row of `source`."""
        if length:
            self._make_room(first + copies, length, source.buffers)
            for mine, theirs in zip(self.buffers, source.buffers, strict=True):
                mine[first : first + copies, :, :length] = theirs[row : row + 1, :, :length]
        self.wipe(first, copies, length)

    def write(self, row: int, room: int, pieces: Sequence[Sequence[mx.array]]) -> None:
        """Fills a row from its beginning, and has room for so many tokens.

        `pieces` are for each buffer arrays (heads, width, size) that follow each other.
        """
        if not self.buffers and row == 0:
            self.buffers = [_filled(arrays, room) for arrays in pieces]
            return
        whole = [mx.concatenate(list(arrays), axis=1) for arrays in pieces]
        self._make_room(row + 1, room, [array[None] for array in whole])
        for buffer, array in zip(self.buffers, whole, strict=True):
            buffer[row, :, : array.shape[1]] = array

    def wipe(self, first: int, rows: int, length: int) -> None:
        """Clears what earlier rows left behind `length` tokens: masked out it counts nothing, unless it is NaN."""
        for buffer in self.buffers[len(self.buffers) // 2 :]:
            if first < buffer.shape[0]:
                buffer[first : first + rows, :, length:] = 0

    def lacks(self, rows: int, tokens: int) -> bool:
        """It has buffers, but not with so much room."""
        return bool(self.buffers) and (self.buffers[0].shape[0] < rows or self.buffers[0].shape[2] < tokens)

    def grow(self, rows: int, tokens: int) -> None:
        """Does at once what a pass would do later, when all layers need it."""
        self._make_room(rows, tokens, self.buffers)
        mx.eval(self.buffers)

    def shrink(self, rows: int, tokens: int, slack: int) -> None:
        """Gives memory back when it holds more than `slack` times what is needed."""
        if not self.buffers:
            return
        held = self.buffers[0].shape[0] * self.buffers[0].shape[2]
        if not rows:
            self.buffers = []
        elif slack * rows * _rounded(tokens) < held:
            self._move(rows, tokens, [buffer[:rows, :, :tokens] for buffer in self.buffers])

    def _encoded(self, array: mx.array) -> Sequence[mx.array]:
        """Keys or values as they are kept."""
        return (array,)

    def _as_read(self, arrays: Sequence[mx.array]) -> Any:
        """Kept keys or values as the model's attention takes them."""
        return arrays[0]

    def _make_room(self, rows: int, tokens: int, like: Sequence[mx.array]) -> None:
        if not self.buffers:
            self.buffers = [_buffer(one, rows, tokens) for one in like]
            return
        held_rows, _, held_tokens, _ = self.buffers[0].shape
        if rows > held_rows or tokens > held_tokens:
            self._move(max(rows, held_rows), max(tokens, held_tokens), self.buffers)

    def _move(self, rows: int, tokens: int, content: Sequence[mx.array]) -> None:
        """To buffers of another size."""
        self.buffers = [_buffer(one, rows, tokens) for one in content]
        for buffer, one in zip(self.buffers, content, strict=True):
            buffer[: one.shape[0], :, : one.shape[2]] = one


class QuantizedRaggedLayer(RaggedLayer):
    """Keeps keys and values in `bits` bits each; mlx-lm's attention looks for `bits` and `group_size`."""

    def __init__(self, rows: RaggedCaches, bits: int) -> None:
        super().__init__(rows)
        self.bits = bits
        self.group_size = QUANTIZED_GROUP

    def _encoded(self, array: mx.array) -> Sequence[mx.array]:
        return mx.quantize(array, group_size=self.group_size, bits=self.bits)

    def _as_read(self, arrays: Sequence[mx.array]) -> Any:
        return tuple(arrays)


def _filled(arrays: Sequence[mx.array], room: int) -> mx.array:
    """A buffer of one row that begins with these arrays; each of its bytes is written once."""
    heads, _, size = arrays[0].shape
    left = _rounded(room) - sum(array.shape[1] for array in arrays)
    return mx.concatenate([*arrays, mx.zeros((heads, left, size), arrays[0].dtype)], axis=1)[None]


def _buffer(like: mx.array, rows: int, tokens: int) -> mx.array:
    return mx.zeros((rows, like.shape[1], _rounded(tokens), like.shape[3]), like.dtype)


def _rounded(tokens: int) -> int:
    return -(-tokens // GROWTH_TOKENS) * GROWTH_TOKENS
