"""Brings a model's weights into memory, a bounded piece at a time. Runs on the MLX thread.

mlx reads a weight when it is evaluated. One weight is read in one go; to expand it (quantised ones, or half precision)
it is cut by rows. Cut, this is faster too: 670 MB dequantised at once on a CPU took 1.96 s, in pieces of 40 MB 1.0 s.
"""

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten, tree_unflatten

from gateway.engine.sliced_work import UNDISTURBED_SECONDS

LARGEST_PIECE_BYTES = 32 << 20
SMALLEST_PIECE_BYTES = 256 << 10
"""Less gains nobody anything, however short a slice is to be."""

LEARNING_RATE = 0.3
"""Of the seconds a byte takes, at every piece but the first."""


class Work(Enum):
    """Kinds of pieces, and the bytes per second that are expected before any was measured: rather too few."""

    READ = 250e6
    MAKE_ROOM = 1000e6
    EXPAND = 25e6


class Stopwatch:
    """The seconds of a slice, and how much work of each kind fits into what is left of it."""

    def __init__(self) -> None:
        self._seconds_per_byte = {kind: 1 / kind.value for kind in Work}
        self._seconds = self._ends = 0.0
        self._used = False
        self._measured: set[Work] = set()

    def start(self, allowed_seconds: float | None) -> None:
        """A slice begins."""
        self._seconds = UNDISTURBED_SECONDS if allowed_seconds is None else allowed_seconds
        self._ends = time.perf_counter() + self._seconds
        self._used = False

    def fits(self, kind: Work, size_bytes: int) -> bool:
        """Whether so much should be done by the end of the slice; of a new slice, something must be made."""
        return not self._used or time.perf_counter() + self._seconds_per_byte[kind] * size_bytes <= self._ends

    def bytes_in_slice(self, kind: Work) -> int:
        """So much should be done in a whole slice."""
        return int(self._seconds / self._seconds_per_byte[kind])

    def done(self, kind: Work, size_bytes: int, seconds: float) -> None:
        self._used = True
        if size_bytes:
            known = self._seconds_per_byte[kind]
            weight = LEARNING_RATE if kind in self._measured else 1.0
            self._seconds_per_byte[kind] = known + weight * (seconds / size_bytes - known)
            self._measured.add(kind)


@dataclass(frozen=True, slots=True)
class Packed:
    """A quantised weight, and all that mlx needs to expand it."""

    weight: mx.array
    scales: mx.array
    biases: mx.array | None
    group_size: int
    bits: int
    mode: str

    def rows(self, begin: int, end: int, dtype: mx.Dtype) -> mx.array:
        # Scales first: values expanded from half-precision scales would be rounded to half precision.
        floating = mx.issubdtype(self.scales.dtype, mx.floating)
        scales = self.scales[begin:end].astype(dtype) if floating else self.scales[begin:end]
        biases = None if self.biases is None else self.biases[begin:end].astype(dtype)
        expanded = mx.dequantize(self.weight[begin:end], scales, biases, self.group_size, self.bits, self.mode)
        return expanded.astype(dtype)  # of mxfp4 and its like, it comes as bfloat16, which holds it exactly


@dataclass(frozen=True, slots=True)
class Wanted:
    """A parameter as it shall be; `stored` is what it is made from."""

    name: str
    stored: mx.array | Packed
    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.size

    @property
    def sources(self) -> list[mx.array]:
        packed = self.stored
        if isinstance(packed, Packed):
            return [array for array in (packed.weight, packed.scales, packed.biases) if array is not None]
        return [packed]

    @property
    def expands(self) -> bool:
        return isinstance(self.stored, Packed) or self.stored.dtype != self.dtype

    def rows(self, begin: int, end: int) -> mx.array:
        """Expanded; of a single number, the number."""
        if isinstance(self.stored, Packed):
            return self.stored.rows(begin, end, self.dtype)
        return (self.stored[begin:end] if self.shape else self.stored).astype(self.dtype)


class WeightSlices:
    """The parameters of `model`, which are all lazy. `packed` are the quantised weights, by the names of the parameters
    that are made from them; with a `dtype` every floating parameter becomes that."""

    def __init__(self, model: Module, packed: Mapping[str, Packed], dtype: mx.Dtype | None) -> None:
        parameters: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # type: ignore[assignment, no-untyped-call]
        self._model = model
        self._wanted = [_wanted(name, array, packed.get(name), dtype) for name, array in parameters]
        self._clock = Stopwatch()
        self._done_bytes = 0
        self.nbytes = sum(wanted.nbytes for wanted in self._wanted)
        """In memory, in the end."""

    def evaluate(self) -> Generator[float, float | None, None]:
        """`Slices`. Raises what mlx raises when a file cannot be read."""
        self._clock.start((yield 0.0))
        self._wanted.reverse()
        while self._wanted:
            wanted = self._wanted.pop()  # so that nothing holds what it was made from any longer than need be
            for source in wanted.sources:
                yield from self._piece(Work.READ, source.nbytes, [source])
            if wanted.expands:
                yield from self._expand(wanted)
            self._done_bytes += wanted.nbytes

    def _expand(self, wanted: Wanted) -> Generator[float, float | None, None]:
        rows = wanted.shape[0] if wanted.shape else 1
        most_bytes = max(SMALLEST_PIECE_BYTES, min(LARGEST_PIECE_BYTES, self._clock.bytes_in_slice(Work.EXPAND)))
        step = max(1, most_bytes * rows // max(1, wanted.nbytes))
        if rows <= step:
            whole = wanted.rows(0, rows)
            self._put(wanted.name, whole)
            yield from self._piece(Work.EXPAND, wanted.nbytes, [whole])
            return
        whole = mx.zeros(wanted.shape, wanted.dtype)
        yield from self._piece(Work.MAKE_ROOM, wanted.nbytes, [whole])
        for begin in range(0, rows, step):
            end = min(rows, begin + step)
            whole[begin:end] = wanted.rows(begin, end)  # in place: nobody else holds it
            yield from self._piece(Work.EXPAND, wanted.nbytes * (end - begin) // rows, [whole])
        self._put(wanted.name, whole)

    def _piece(self, kind: Work, size_bytes: int, arrays: list[mx.array]) -> Generator[float, float | None, None]:
        """Evaluates arrays: in this slice if that should fit, else in the next."""
        if not self._clock.fits(kind, size_bytes):
            self._clock.start((yield self._done_bytes / max(1, self.nbytes)))
        began = time.perf_counter()
        mx.eval(arrays)
        self._clock.done(kind, size_bytes, time.perf_counter() - began)

    def _put(self, name: str, array: mx.array) -> None:
        self._model.update(tree_unflatten([(name, array)]))


def _wanted(name: str, array: mx.array, packed: Packed | None, dtype: mx.Dtype | None) -> Wanted:
    floating = mx.issubdtype(array.dtype, mx.floating)
    return Wanted(name, packed or array, array.shape, dtype if dtype is not None and floating else array.dtype)


def packed_weights(model: Any) -> dict[str, Packed]:
    """The quantised weights of a model, by the names of their parameters."""
    return {
        f"{name}.weight": Packed(
            module.weight, module.scales, module.get("biases"), module.group_size, module.bits, module.mode
        )
        for name, module in model.named_modules()
        if "scales" in module and hasattr(module, "bits")
    }
