"""Arrays to bytes and back, for the disk. Belongs to the MLX thread: others get bytes, never arrays."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from gateway.prefix_cache.extent import StoredArray


def to_bytes(arrays: Sequence[mx.array]) -> list[StoredArray]:
    """Copies; the arrays must be evaluated."""
    return [StoredArray(_name(array.dtype), array.shape, _raw(array)) for array in arrays]


def from_bytes(stored: Sequence[StoredArray]) -> list[mx.array]:
    """Raises `ValueError` for a type that mlx does not know, or bytes that do not fill the shape."""
    return [_array(one) for one in stored]


def _name(dtype: mx.Dtype) -> str:
    """That of the attribute of `mx`, which is not always what the type calls itself."""
    name = str(dtype).rsplit(".", 1)[-1]
    return f"{name}_" if name == "bool" else name


def _raw(array: mx.array) -> bytes:
    flat: Any = array.reshape(-1).view(mx.uint8)  # it has the buffer protocol, though its stub does not say so
    return memoryview(flat).tobytes() if array.size else b""


def _array(stored: StoredArray) -> mx.array:
    dtype = getattr(mx, stored.dtype, None)
    if not isinstance(dtype, mx.Dtype):
        raise ValueError(f"{stored.dtype!r} is no type of mlx's")
    return mx.array(np.frombuffer(stored.data, np.uint8)).view(dtype).reshape(stored.shape)
