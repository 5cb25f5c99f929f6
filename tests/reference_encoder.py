"""BERT, RoBERTa and DistilBERT in numpy, straight from a Hugging Face folder: one text at a time, nothing padded.

Shares no code with mlx or the gateway. Computes in float64.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

erf = np.vectorize(math.erf, otypes=[np.float64])

BERT = {
    "layer": "encoder.layer.{}",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mixed": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
    "norm2": "output.LayerNorm",
}
DISTILBERT = {
    "layer": "transformer.layer.{}",
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "mixed": "attention.out_lin",
    "norm1": "sa_layer_norm",
    "wide": "ffn.lin1",
    "narrow": "ffn.lin2",
    "norm2": "output_layer_norm",
}


class ReferenceEncoder:
    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.family: str = config["model_type"]
        distil = self.family == "distilbert"
        self.names = DISTILBERT if distil else BERT
        self.heads: int = config["n_heads" if distil else "num_attention_heads"]
        self.layers: int = config["n_layers" if distil else "num_hidden_layers"]
        self.eps: float = config.get("layer_norm_eps", 1e-12)
        self.first_position = config["pad_token_id"] + 1 if self.family == "roberta" else 0
        self.weights = read_safetensors(folder / "model.safetensors")

    def hidden(self, ids: list[int], types: list[int]) -> Array:
        """(tokens, width)"""
        x = self._weight("embeddings.word_embeddings.weight")[ids]
        places = np.arange(self.first_position, self.first_position + len(ids))
        x = x + self._weight("embeddings.position_embeddings.weight")[places]
        if self.family != "distilbert":
            x = x + self._weight("embeddings.token_type_embeddings.weight")[types]
        x = self._norm(x, "embeddings.LayerNorm")
        for number in range(self.layers):
            x = self._layer(x, self.names["layer"].format(number))
        return x

    def score(self, ids: list[int], types: list[int]) -> float:
        """A cross-encoder's, as a probability."""
        first = self.hidden(ids, types)[0]
        match self.family:
            case "bert":
                logit = self._linear(np.tanh(self._linear(first, "pooler.dense")), "classifier")
            case "roberta":
                logit = self._linear(np.tanh(self._linear(first, "classifier.dense")), "classifier.out_proj")
            case _:
                logit = self._linear(np.maximum(self._linear(first, "pre_classifier"), 0), "classifier")
        return float(1 / (1 + np.exp(-logit[0])))

    def _layer(self, x: Array, layer: str) -> Array:
        def linear(y: Array, name: str) -> Array:
            return self._linear(y, f"{layer}.{self.names[name]}")

        tokens, width = x.shape
        q, k, v = (
            linear(x, name).reshape(tokens, self.heads, -1).transpose(1, 0, 2) for name in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(width // self.heads)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = (weights @ v).transpose(1, 0, 2).reshape(tokens, width)
        x = self._norm(x + linear(mixed, "mixed"), f"{layer}.{self.names['norm1']}")
        wide = linear(x, "wide")
        gelu = wide * (1 + erf(wide / math.sqrt(2))) / 2
        return self._norm(x + linear(gelu, "narrow"), f"{layer}.{self.names['norm2']}")

    def _linear(self, x: Array, name: str) -> Array:
        result: Array = x @ self._weight(f"{name}.weight").T + self._weight(f"{name}.bias")
        return result

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.eps)
        result: Array = scaled * self._weight(f"{name}.weight") + self._weight(f"{name}.bias")
        return result

    def _weight(self, name: str) -> Array:
        return self.weights[name] if name in self.weights else self.weights[f"{self.family}.{name}"]


def read_safetensors(path: Path) -> dict[str, Array]:
    """Float32 tensors; see https://github.com/huggingface/safetensors#format."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(content[begin:end], "<f4").reshape(entry["shape"]).astype(np.float64)
    return tensors
