"""Gemma 3 in numpy, straight from its GGUF; see reference_model.py.

After https://arxiv.org/abs/2503.19786 and `llm_build_gemma3` in llama.cpp. The GGUF's norm weights are used as they
are: they hold the 1 that Gemma adds.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .reference_model import Array, ReferenceModel, Sequence

LOCAL_BASE = 10_000.0
GLOBAL_EVERY = 6  # layers


class ReferenceGemma3(ReferenceModel):
    """Layers with a sliding window, and after five of them one that sees everything."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.window: int = self._number("attention.sliding_window")

    def _embed(self, tokens: NDArray[np.int64]) -> Array:
        embedded = super()._embed(tokens)
        return embedded * _as_bfloat16(float(np.sqrt(embedded.shape[-1])))

    def _layer(self, layer: int, x: Array, ends: NDArray[np.int64], sequences: list[Sequence]) -> Array:
        mixed = self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm"), ends, sequences)
        x = x + self._norm(mixed, f"blk.{layer}.post_attention_norm")
        forwarded = self._feed_forward(layer, self._norm(x, f"blk.{layer}.ffn_norm"))
        return x + self._norm(forwarded, f"blk.{layer}.post_ffw_norm")

    def _base(self, layer: int) -> float:
        return self.base if self._sees_everything(layer) else LOCAL_BASE

    def _window(self, layer: int) -> int | None:
        return None if self._sees_everything(layer) else self.window

    def _activation(self, gate: Array) -> Array:
        """GELU, by its tanh approximation."""
        active: Array = (
            gate / 2 * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate**3)))
        )
        return active

    def _sees_everything(self, layer: int) -> bool:
        return layer % GLOBAL_EVERY == GLOBAL_EVERY - 1


def _as_bfloat16(number: float) -> np.float32:
    """The nearest bfloat16: Gemma was trained with its embedding's factor, sqrt(width), in that type."""
    bits = int(np.float32(number).view(np.uint32))
    rounded: np.float32 = np.uint32((bits + 0x8000) & 0xFFFF0000).view(np.float32)
    return rounded
