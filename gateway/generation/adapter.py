"""A LoRA adapter as its files describe it: what is added to which layers of its base. Pure values."""

from dataclasses import dataclass
from pathlib import Path

BASE = ""
"""The name of no adapter: the base model itself."""


def adapter_id(base_id: str, name: str) -> str:
    """What clients call an adapter of a base model; for `BASE` the base's own id."""
    return f"{base_id}:{name}" if name else base_id


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """Adds `scale * (x @ down) @ up` to what one linear layer makes of x.

    `module` is the layer's path as the adapter's maker wrote it. `down` and `up` are names of tensors, of shape
    (inputs, rank) and (rank, outputs); `transposed` ones are stored the other way round.
    """

    module: str
    inputs: int
    outputs: int
    rank: int
    scale: float
    down: str
    up: str
    transposed: bool


@dataclass(frozen=True, slots=True)
class Adapter:
    """`weights` is a safetensors file that holds the tensors of `updates`; equal `fingerprint`s compute the same."""

    name: str
    weights: Path
    updates: tuple[LowRankUpdate, ...]
    fingerprint: bytes
