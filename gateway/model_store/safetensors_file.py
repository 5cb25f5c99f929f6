"""Writes a safetensors file piece by piece, so that no more than one piece of the model is in memory.

Format: https://huggingface.co/docs/safetensors. The `safetensors` package wants all tensors at once.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES_OF_TYPES = {"float16": "F16", "float32": "F32", "uint32": "U32"}


@dataclass(frozen=True)
class Outgoing:
    """A tensor to be written; `pieces` are its rows, in order, in arrays of `dtype`."""

    name: str
    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[NDArray[Any]]]
    type_name: str = ""
    """What the format calls the type, where numpy has no such type and `dtype` only carries its bytes."""

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_safetensors(path: Path, tensors: Sequence[Outgoing], wrote_bytes: Callable[[int], None]) -> None:
    """Write `tensors` to `path`; `wrote_bytes` hears how many bytes of them there are so far.

    Raises OSError, and what the pieces raise.
    """
    aligned = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for tensor in aligned:
        start, end = end, end + tensor.size_bytes
        kind = tensor.type_name or NAMES_OF_TYPES[tensor.dtype.name]
        header[tensor.name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)

    written = 0
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in aligned:
            for piece in tensor.pieces():
                file.write(np.ascontiguousarray(piece, tensor.dtype.newbyteorder("<")).data)
                written += piece.nbytes
                wrote_bytes(written)
    assert written == end, f"{path}: {written} bytes of weights were written, {end} were meant"
