"""A llama forward pass in numpy, straight from a GGUF: its own tensor names, row order and interleaved rope.

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


class ReferenceLlama:
    """Computes logits for several sequences at once; only the matrix products are shared between them."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.weights: dict[str, Array] = {
            tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors
        }
        self.layers: int = _number(reader, "llama.block_count")
        self.heads: int = _number(reader, "llama.attention.head_count")
        self.kv_heads: int = _number(reader, "llama.attention.head_count_kv")
        self.eps = np.float32(_number(reader, "llama.attention.layer_norm_rms_epsilon"))
        self.theta: float = _number(reader, "llama.rope.freq_base")
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
        x = self.weights["token_embd.weight"][np.concatenate(fed)]
        for layer in range(self.layers):
            x = x + self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm"), ends, sequences)
            x = x + self._feed_forward(layer, self._norm(x, f"blk.{layer}.ffn_norm"))
        for sequence, tokens in zip(sequences, fed, strict=True):
            sequence.length += len(tokens)
        output = self.weights.get("output.weight", self.weights["token_embd.weight"])
        logits: Array = self._norm(x[ends - 1], "output_norm") @ output.T
        return logits

    def _norm(self, x: Array, name: str) -> Array:
        scaled: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return scaled * self.weights[f"{name}.weight"]

    def _linear(self, x: Array, name: str) -> Array:
        product: Array = x @ self.weights[f"{name}.weight"].T
        return product

    def _feed_forward(self, layer: int, x: Array) -> Array:
        gate = self._linear(x, f"blk.{layer}.ffn_gate")
        return self._linear(
            gate / (1 + np.exp(-gate)) * self._linear(x, f"blk.{layer}.ffn_up"), f"blk.{layer}.ffn_down"
        )

    def _attention(self, layer: int, x: Array, ends: NDArray[np.int64], sequences: list[Sequence]) -> Array:
        queries = self._linear(x, f"blk.{layer}.attn_q").reshape(len(x), self.heads, self.head_dim)
        keys = self._linear(x, f"blk.{layer}.attn_k").reshape(len(x), self.kv_heads, self.head_dim)
        values = self._linear(x, f"blk.{layer}.attn_v").reshape(len(x), self.kv_heads, self.head_dim)
        mixed = []
        for q, k, v, sequence in zip(
            *(np.split(part, ends[:-1]) for part in (queries, keys, values)), sequences, strict=True
        ):
            sequence.keys[layer] = np.concatenate([sequence.keys[layer], self._rope(k, sequence.length)])
            sequence.values[layer] = np.concatenate([sequence.values[layer], v])
            mixed.append(self._attend(self._rope(q, sequence.length), layer, sequence))
        return self._linear(np.concatenate(mixed), f"blk.{layer}.attn_output")

    def _attend(self, queries: Array, layer: int, sequence: Sequence) -> Array:
        shared = self.heads // self.kv_heads  # query heads per key-value head
        keys = sequence.keys[layer].repeat(shared, axis=1)
        values = sequence.values[layer].repeat(shared, axis=1)
        scores = np.einsum("qhd,khd->hqk", queries, keys) / np.float32(np.sqrt(self.head_dim))
        new, total = len(queries), len(keys)
        future = np.arange(total)[None, :] > np.arange(total - new, total)[:, None]
        scores = np.where(future, np.float32(-np.inf), scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed: Array = np.einsum("hqk,khd->qhd", weights, values).reshape(new, -1)
        return mixed

    def _rope(self, x: Array, offset: int) -> Array:
        """Rotate the pairs (0, 1), (2, 3), ... of each head."""
        frequencies = self.theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        angles = np.arange(offset, offset + len(x))[:, None] * frequencies
        cos, sin = np.cos(angles, dtype=np.float64)[:, None, :], np.sin(angles, dtype=np.float64)[:, None, :]
        even, odd = x[..., 0::2], x[..., 1::2]
        rotated = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
        return rotated.reshape(x.shape).astype(np.float32)


def _number(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.fields[key]
    return field.contents()
