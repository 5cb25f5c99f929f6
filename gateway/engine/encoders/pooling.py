"""From a vector for each token to one for the text, as sentence-transformers' Pooling and Normalize do."""

from collections.abc import Sequence

import mlx.core as mx

from gateway.engine.encoders.encoder_config import Pooling

SMALLEST_NORM = 1e-12


def pool(hidden: mx.array, real: mx.array, modes: Sequence[Pooling]) -> mx.array:
    """(texts, tokens, width) to (texts, width x modes). `real` (texts, tokens) is False where a text is padded."""
    return mx.concatenate([_pooled(hidden, real, mode) for mode in modes], axis=-1)


def normalized(vectors: mx.array) -> mx.array:
    """Of length 1."""
    return vectors / mx.maximum(mx.linalg.norm(vectors, axis=-1, keepdims=True), SMALLEST_NORM)


def _pooled(hidden: mx.array, real: mx.array, mode: Pooling) -> mx.array:
    there = real[..., None]
    lengths = real.sum(axis=1, keepdims=True)
    match mode:
        case Pooling.CLS:
            return hidden[:, 0]
        case Pooling.LAST:
            return mx.take_along_axis(hidden, lengths[..., None] - 1, axis=1)[:, 0]
        case Pooling.MAX:
            return mx.where(there, hidden, -mx.inf).max(axis=1)
        case Pooling.MEAN:
            return mx.where(there, hidden, 0).sum(axis=1) / lengths
        case Pooling.MEAN_SQRT_LENGTH:
            return mx.where(there, hidden, 0).sum(axis=1) / mx.sqrt(lengths)
