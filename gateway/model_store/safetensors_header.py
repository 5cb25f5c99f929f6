"""Reads what a safetensors file says of its tensors, and nothing of the tensors themselves.

Format: https://huggingface.co/docs/safetensors.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gateway.errors import ModelFilesInvalid

MOST_HEADER_BYTES = 100_000_000
"""The limit of the `safetensors` package."""

TYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """`type` is the format's name, such as `BF16`."""

    type: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.elements * TYPE_BYTES[self.type]

    @property
    def floating(self) -> bool:
        """In 16 bits or more: mlx reads shorter floats as bare bytes."""
        return self.type in ("F16", "BF16", "F32", "F64")


def read_safetensors_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors by name. Raises `ModelFilesInvalid` if the file is cut short or is none of this format."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            text = opened.read(length) if length <= MOST_HEADER_BYTES else b""
        data_bytes = file.stat().st_size - 8 - length
    except OSError as error:
        raise ModelFilesInvalid(file, f"cannot be read: {error.strerror}") from error
    if length > MOST_HEADER_BYTES or data_bytes < 0:
        raise ModelFilesInvalid(file, f"is no safetensors file, or cut short: its header would take {length} bytes")
    try:
        header = json.loads(text)
        entries = {name: _entry(header[name], data_bytes) for name in header if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFilesInvalid(file, f"its safetensors header is broken: {error}") from error
    return entries


def _entry(stated: Any, data_bytes: int) -> StoredTensor:
    tensor = StoredTensor(str(stated["dtype"]), tuple(stated["shape"]))
    if tensor.type not in TYPE_BYTES:
        raise ValueError(f"numbers of type {tensor.type[:20]!r} are not known")
    if any(not isinstance(size, int) or size < 0 for size in tensor.shape):
        raise ValueError(f"no tensor has the shape {tensor.shape}")
    begin, end = stated["data_offsets"]
    if not 0 <= begin <= end or end - begin != tensor.size_bytes:
        raise ValueError(f"bytes {begin} to {end} cannot hold {tensor.type} of shape {tensor.shape}")
    if end > data_bytes:
        raise ValueError(f"a tensor ends at byte {end}, but the file has {data_bytes} bytes of data; it is cut short")
    return tensor
