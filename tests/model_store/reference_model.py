"""A forward pass in numpy, straight from a llama, qwen2 or qwen3 GGUF: its own tensor names and row order.

Shares no code with mlx, mlx-lm or the importer. Float32 throughout.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Sequence:
    """One sequence's keys and values so far, per layer: (tokens, kv heads, head_dim)."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int) -> None:
        self.keys: list[Array] = [np.zeros((0, kv_heads, head_dim), np.float32)] * layers
        self.values: list[Array] = [np.zeros((0, kv_heads, head_dim), np.float32)] * layers
        self.length = 0


class ReferenceModel:
    """Computes logits for several sequences at once; only the matrix products are shared between them."""

    def __init__(self, path: Path) -> None:
        self.reader = reader = gguf.GGUFReader(path)
        self.weights: dict[str, Array] = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors
        }
        self.name: str = reader.fields["general.architecture"].contents()
        self.layers: int = self._number("block_count")
        self.heads: int = self._number("attention.head_count")
        self.kv_heads: int = self._number("attention.head_count_kv")
        self.eps = np.float32(self._number("attention.layer_norm_rms_epsilon"))
        self.base: float = self._number("rope.freq_base")
        self.head_dim = self.weights["blk.0.attn_q.weight"].shape[0] // self.heads

    def greedy(self, prompts: list[list[int]], steps: int) -> tuple[list[list[int]], list[list[Array]]]:
        """For each prompt `steps` tokens, and the logits each was chosen from."""
        sequences = [Sequence(self.layers, self.kv_heads, self.head_dim) for _ in prompts]
        tokens: list[list[int]] = [[] for _ in prompts]
        logits: list[list[Array]] = [[] for _ in prompts]
        fed = prompts
        for _ in range(steps):
            for at, row in enumerate(self.last_logits(fed, sequences)):
                logits[at].append(row)
                tokens[at].append(int(row.argmax()))
            fed = [[chosen[-1]] for chosen in tokens]
        return tokens, logits

    def last_logits(self, fed: list[list[int]], sequences: list[Sequence]) -> Array:
        """Feed tokens to each sequence; the logits after each one's last: (sequences, vocabulary)."""
        ends = np.cumsum([len(tokens) for tokens in fed])
        x = self._embed(np.concatenate(fed))
        for layer in range(self.layers):
            x = self._layer(layer, x, ends, sequences)
        for sequence, tokens in zip(sequences, fed, strict=True):
            sequence.length += len(tokens)
        output = self.weights.get("output.weight", self.weights["token_embd.weight"])
        logits: Array = self._norm(x[ends - 1], "output_norm") @ output.T
        return logits

    def _embed(self, tokens: NDArray[np.int64]) -> Array:
        return self.weights["token_embd.weight"][tokens]

    def _layer(self, layer: int, x: Array, ends: NDArray[np.int64], sequences: list[Sequence]) -> Array:
        x = x + self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm"), ends, sequences)
        return x + self._feed_forward(layer, self._norm(x, f"blk.{layer}.ffn_norm"))

    def _base(self, layer: int) -> float:
        """Of its rope's frequencies."""
        return self.base

    def _window(self, layer: int) -> int | None:
        """How many tokens each one attends to, itself included; None: all before it."""
        return None

    def _activation(self, gate: Array) -> Array:
        """SiLU."""
        active: Array = gate / (1 + np.exp(-gate))
        return active

    def _norm(self, x: Array, name: str) -> Array:
        scaled: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return scaled * self.weights[f"{name}.weight"]

    def _linear(self, x: Array, name: str) -> Array:
        product: Array = x @ self.weights[f"{name}.weight"].T
        return product + self.weights.get(f"{name}.bias", np.float32(0))

    def _feed_forward(self, layer: int, x: Array) -> Array:
        active = self._activation(self._linear(x, f"blk.{layer}.ffn_gate"))
        return self._linear(active * self._linear(x, f"blk.{layer}.ffn_up"), f"blk.{layer}.ffn_down")

    def _attention(self, layer: int, x: Array, ends: NDArray[np.int64], sequences: list[Sequence]) -> Array:
        queries = self._linear(x, f"blk.{layer}.attn_q").reshape(len(x), self.heads, self.head_dim)
        keys = self._linear(x, f"blk.{layer}.attn_k").reshape(len(x), self.kv_heads, self.head_dim)
        values = self._linear(x, f"blk.{layer}.attn_v").reshape(len(x), self.kv_heads, self.head_dim)
        if f"blk.{layer}.attn_q_norm.weight" in self.weights:
            queries = self._norm(queries, f"blk.{layer}.attn_q_norm")
            keys = self._norm(keys, f"blk.{layer}.attn_k_norm")
        mixed = []
        for q, k, v, sequence in zip(
            *(np.split(part, ends[:-1]) for part in (queries, keys, values)), sequences, strict=True
        ):
            sequence.keys[layer] = np.concatenate([sequence.keys[layer], self._rope(layer, k, sequence.length)])
            sequence.values[layer] = np.concatenate([sequence.values[layer], v])
            mixed.append(self._attend(self._rope(layer, q, sequence.length), layer, sequence))
        return self._linear(np.concatenate(mixed), f"blk.{layer}.attn_output")

    def _attend(self, queries: Array, layer: int, sequence: Sequence) -> Array:
        shared = self.heads // self.kv_heads  # query heads per key-value head
        keys = sequence.keys[layer].repeat(shared, axis=1)
        values = sequence.values[layer].repeat(shared, axis=1)
        scores = np.einsum("qhd,khd->hqk", queries, keys) / np.float32(np.sqrt(self.head_dim))
        new, total = len(queries), len(keys)
        ages = np.arange(total - new, total)[:, None] - np.arange(total)[None, :]
        hidden = (ages < 0) | (ages >= (self._window(layer) or total))
        scores = np.where(hidden, np.float32(-np.inf), scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed: Array = np.einsum("hqk,khd->qhd", weights, values).reshape(new, -1)
        return mixed

    def _rope(self, layer: int, x: Array, offset: int) -> Array:
        """Rotate pairs of each head: in a llama GGUF (0, 1), (2, 3), ...; in others i and i + half."""
        frequencies = self._base(layer) ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        angles = np.arange(offset, offset + len(x))[:, None] * frequencies
        cos, sin = np.cos(angles, dtype=np.float64)[:, None, :], np.sin(angles, dtype=np.float64)[:, None, :]
        half = self.head_dim // 2
        neighbours = self.name == "llama"
        one, other = (x[..., 0::2], x[..., 1::2]) if neighbours else (x[..., :half], x[..., half:])
        rotated = np.stack([one * cos - other * sin, one * sin + other * cos], axis=-1 if neighbours else -2)
        return rotated.reshape(x.shape).astype(np.float32)

    def _number(self, key: str) -> Any:
        return self.reader.fields[f"{self.name}.{key}"].contents()
