"""The bytes of a GGUF: its metadata and its table of tensors, every length and offset checked before it is followed.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package could read it too, but takes nine
seconds for a vocabulary of 262144 tokens, and trusts the counts it finds.
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from gateway.errors import ModelFilesInvalid
from gateway.model_store.gguf_metadata import GgufMetadata, MetadataValue

MOST_ENTRIES = 1 << 16  # of metadata, and tensors
MOST_ITEMS = 1 << 24  # of a list
STRING, LIST = 8, 9
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""The types of metadata values, by their number, as numpy spells them."""


@dataclass(frozen=True)
class GgufTensor:
    """One tensor as it lies in the file; `shape` in elements, (rows, inputs) or (size,)."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    data: NDArray[np.uint8]
    """(rows, bytes of a row), read from the file when it is looked at."""


def read_gguf(source: Path) -> tuple[dict[str, GgufTensor], GgufMetadata]:
    """The tensors by name, and the metadata. Raises ModelFilesInvalid when the file is not a whole, sound GGUF."""
    with source.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ModelFilesInvalid(source, "cannot be read as GGUF: it is empty") from error
    reader = _Reader(source, content)
    tensor_count, value_count = reader.counts()
    values: dict[str, MetadataValue] = {}
    for _ in range(value_count):
        key = reader.text()
        if key in values:
            raise reader.broken(f"it has {key!r} twice")
        values[key] = reader.value(reader.integer("<I"))
    metadata = GgufMetadata(source, values)
    return reader.tensors(tensor_count, metadata.integer("general.alignment", 1, 1 << 16, default=32)), metadata


class _Reader:
    """Walks through the file from its beginning."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path = path
        self._content = content
        self._at = 0

    def broken(self, reason: str) -> ModelFilesInvalid:
        return ModelFilesInvalid(self._path, f"cannot be read as GGUF: {reason}")

    def counts(self) -> tuple[int, int]:
        """Of tensors, and of metadata."""
        if self._take(4) != b"GGUF":
            raise self.broken("it does not begin with 'GGUF'")
        version = self.integer("<I")
        if version not in (2, 3):
            raise self.broken(f"its version is {version}; known are 2 and 3")
        counts = self.integer("<Q"), self.integer("<Q")
        if max(counts) > MOST_ENTRIES:
            raise self.broken(f"it claims to hold {counts[0]} tensors and {counts[1]} entries of metadata")
        return counts

    def integer(self, form: str) -> int:
        number: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return number

    def text(self) -> str:
        try:
            return self._take(self.integer("<Q")).decode()
        except UnicodeDecodeError as error:
            raise self.broken(f"it has a string that is not UTF-8: {error}") from error

    def value(self, kind: int) -> MetadataValue:
        if kind == STRING:
            return self.text()
        if kind == LIST:
            return self._list()
        number: str | int | float | bool = self._numbers(kind, 1)[0]
        return number

    def _list(self) -> MetadataValue:
        kind, count = self.integer("<I"), self.integer("<Q")
        if count > MOST_ITEMS:
            raise self.broken(f"it has a list of {count} values; at most {MOST_ITEMS} are read")
        if kind == STRING:
            return [self.text() for _ in range(count)]
        return self._numbers(kind, count)

    def _numbers(self, kind: int, count: int) -> list[int] | list[float] | list[bool]:
        if kind not in NUMBERS:
            raise self.broken(f"it has a value of the unknown type {kind}")
        numbers: NDArray[np.generic] = np.frombuffer(
            self._take(np.dtype(NUMBERS[kind]).itemsize * count), dtype=NUMBERS[kind]
        )
        plain: list[int] | list[float] | list[bool] = numbers.tolist()
        return plain

    def tensors(self, count: int, alignment: int) -> dict[str, GgufTensor]:
        """The table of tensors, where the walk now is; their bytes begin at the next multiple of `alignment`."""
        entries = [(self.text(), self._shape(), self._kind(), self.integer("<Q")) for _ in range(count)]
        start = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in entries:
            if name in tensors:
                raise self.broken(f"it has the tensor {name!r} twice")
            tensors[name] = GgufTensor(name, shape, kind, self._data(name, shape, kind, start + offset))
        claimed_bytes = sum(tensor.data.nbytes for tensor in tensors.values())
        if claimed_bytes > len(self._content):  # sharing bytes, a small file could grow without bounds
            raise self.broken(f"its tensors claim {claimed_bytes} bytes, and it has {len(self._content)}")
        return tensors

    def _shape(self) -> tuple[int, ...]:
        """The file begins with the innermost dimension, we with the outermost."""
        dimensions = self.integer("<I")
        if not 1 <= dimensions <= 4:
            raise self.broken(f"it has a tensor of {dimensions} dimensions")
        return tuple(self.integer("<Q") for _ in range(dimensions))[::-1]

    def _kind(self) -> GGMLQuantizationType:
        number = self.integer("<I")
        try:
            return GGMLQuantizationType(number)
        except ValueError as error:
            raise self.broken(f"it has a tensor of the unknown type {number}") from error

    def _data(self, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, start: int) -> NDArray[np.uint8]:
        block_elements, block_bytes = GGML_QUANT_SIZES[kind]
        size_bytes = prod(shape) // block_elements * block_bytes
        if min(shape) < 1 or shape[-1] % block_elements or start + size_bytes > len(self._content):
            raise self.broken(f"{name!r} of {kind.name} and the shape {shape} does not fit into the file")
        data = np.frombuffer(self._content, np.uint8, size_bytes, start)
        return data.reshape(-1, shape[-1] // block_elements * block_bytes)

    def _take(self, size_bytes: int) -> bytes:
        if size_bytes > len(self._content) - self._at:
            raise self.broken(f"it ends where {size_bytes} bytes more are promised, at {self._at}")
        self._at += size_bytes
        return self._content[self._at - size_bytes : self._at]
