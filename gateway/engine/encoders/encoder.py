"""The encoder itself, in mlx: BERT and those of its kind (MiniLM, RoBERTa, XLM-RoBERTa, DistilBERT).

Sources: Devlin et al. 2018 (https://arxiv.org/abs/1810.04805); names and details as in Hugging Face's transformers,
`models/bert/modeling_bert.py` and its siblings. Runs on the MLX thread.
"""

from collections.abc import Callable

import mlx.core as mx
from mlx.nn.layers.activations import gelu, gelu_approx, relu, silu
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.normalization import LayerNorm

from gateway.engine.encoders.encoder_config import EncoderShape, Family

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": gelu,
    "gelu_new": gelu_approx,
    "gelu_pytorch_tanh": gelu_approx,
    "relu": relu,
    "silu": silu,
}


class Encoder(Module):
    """Token ids to one vector a token, each of which looks at the whole text."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.words = Embedding(shape.vocabulary, shape.width)
        self.positions = Embedding(shape.positions, shape.width)
        if shape.types:
            self.types = Embedding(shape.types, shape.width)
        self.norm = LayerNorm(shape.width, eps=shape.norm_eps)
        self.layers = [EncoderLayer(shape) for _ in range(shape.layers)]
        self._first_position = shape.first_position
        self._has_types = shape.types > 0

    def __call__(self, ids: mx.array, types: mx.array, real: mx.array) -> mx.array:
        """All (texts, tokens); `real` is False where a text is padded. Returns (texts, tokens, width)."""
        places = mx.arange(self._first_position, self._first_position + ids.shape[1])
        hidden = self.words(ids) + self.positions(places)
        if self._has_types:
            hidden = hidden + self.types(types)
        hidden = self.norm(hidden)
        mask = real[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden


class EncoderLayer(Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.query = Linear(shape.width, shape.width)
        self.key = Linear(shape.width, shape.width)
        self.value = Linear(shape.width, shape.width)
        self.attended = Linear(shape.width, shape.width)
        self.attended_norm = LayerNorm(shape.width, eps=shape.norm_eps)
        self.widen = Linear(shape.width, shape.inner_width)
        self.narrow = Linear(shape.inner_width, shape.width)
        self.narrow_norm = LayerNorm(shape.width, eps=shape.norm_eps)
        self._heads = shape.heads
        self._activation = ACTIVATIONS[shape.activation]

    def __call__(self, hidden: mx.array, mask: mx.array) -> mx.array:
        texts, tokens, width = hidden.shape
        head_width = width // self._heads

        def by_head(states: mx.array) -> mx.array:
            return states.reshape(texts, tokens, self._heads, head_width).transpose(0, 2, 1, 3)

        mixed = mx.fast.scaled_dot_product_attention(
            by_head(self.query(hidden)),
            by_head(self.key(hidden)),
            by_head(self.value(hidden)),
            scale=head_width**-0.5,
            mask=mask,
        )
        mixed = mixed.transpose(0, 2, 1, 3).reshape(texts, tokens, width)
        hidden = self.attended_norm(hidden + self.attended(mixed))
        return self.narrow_norm(hidden + self.narrow(self._activation(self.widen(hidden))))


class ScoringHead(Module):
    """A cross-encoder's last step: from its first token's vector to one number, larger for a better match."""

    def __init__(self, family: Family, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.out = Linear(width, 1)
        self._activation = relu if family == "distilbert" else mx.tanh

    def __call__(self, hidden: mx.array) -> mx.array:
        """(texts, tokens, width) to (texts, 1)."""
        return self.out(self._activation(self.dense(hidden[:, 0])))
