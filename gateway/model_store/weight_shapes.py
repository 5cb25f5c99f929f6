"""The weights of a text model by what they stand for, from the headers of its files: none of them is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gateway.model_store.safetensors_header import TYPE_BYTES, StoredTensor
from gateway.model_store.weight_sizes import HALF_PRECISION_BYTES, generating, group_size, quantization_of, read_folder


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor as the model computes with it: `shape` is that of the numbers, also where they are quantised.

    `module` is the path of the module whose `weight` it is, else its own. `number_bytes` is the size of its numbers or,
    of a quantised one, of its scales; `quantized_bits` is 0 for plain ones.
    """

    module: str
    shape: tuple[int, ...]
    stored_bytes: int
    number_bytes: int
    quantized_bits: int = 0

    @property
    def elements(self) -> int:
        return prod(self.shape)


def read_weights(folder: Path) -> list[Weight]:
    """All that mlx-lm would load. Raises `ModelFilesInvalid`."""
    config, tensors, _ = read_folder(folder)
    used = generating(tensors, config)
    quantization = quantization_of(config)
    return [_weight(name, used, quantization) for name in used if not _belongs_to_quantized(name, used)]


def _belongs_to_quantized(name: str, tensors: Mapping[str, StoredTensor]) -> bool:
    path, _, part = name.rpartition(".")
    return part in ("scales", "biases") and f"{path}.scales" in tensors and f"{path}.weight" in tensors


def _weight(name: str, tensors: Mapping[str, StoredTensor], quantization: Mapping[str, Any]) -> Weight:
    path, _, part = name.rpartition(".")
    tensor, scales = tensors[name], tensors.get(f"{path}.scales")
    if part != "weight" or scales is None or not scales.shape or not tensor.shape:
        module = path if part == "weight" else name
        return Weight(module, tensor.shape, tensor.size_bytes, TYPE_BYTES[tensor.type])
    columns = scales.shape[-1] * group_size(path, scales, quantization)
    parts = (tensors.get(key) for key in (name, f"{path}.scales", f"{path}.biases"))
    return Weight(
        path,
        (*tensor.shape[:-1], columns),
        sum(part.size_bytes for part in parts if part),
        max(HALF_PRECISION_BYTES, TYPE_BYTES[scales.type]),  # the scales of mxfp4 and its like have one byte
        quantized_bits=8 * TYPE_BYTES[tensor.type] * tensor.shape[-1] // columns if columns else 0,
    )
