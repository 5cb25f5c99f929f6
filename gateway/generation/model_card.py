"""What clients may know of a model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelCard:
    """`created` is in Unix seconds. What is None or empty is not known before the model's files were read.

    `architecture` is the model's type in its config, `quantization_bits` 0 means full precision, `digest` (hex) tells
    its files from others, `purpose` is what it is for. `weight_bytes` are in memory, 0 until it is `loaded`.
    """

    id: str
    created: int
    loaded: bool
    purpose: Literal["text", "embeddings", "ranking"] = "text"
    architecture: str = ""
    quantization_bits: int = 0
    digest: str = ""
    weight_bytes: int = 0
    context_tokens: int | None = None
    template: str = ""
    calls_tools: bool = False
    thinks: bool = False
    fills_in: bool = False
