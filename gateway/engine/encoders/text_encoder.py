"""An encoder in memory, from token ids to one vector (or one score) a text. Runs on the MLX thread."""

from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from gateway.engine.encoders.encoder import Encoder, ScoringHead
from gateway.engine.encoders.encoder_config import EncoderConfig
from gateway.engine.encoders.pooling import normalized, pool
from gateway.engine.encoders.tokenizer import EncoderInput
from gateway.engine.encoders.weight_names import our_name
from gateway.engine.sliced_work import at_once
from gateway.engine.weight_slices import WeightSlices
from gateway.errors import ModelFilesInvalid


class TextEncoder(Module):
    """With a `head` it scores pairs, without one it embeds texts."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.shape)
        if config.cross_encoder:
            self.head = ScoringHead(config.family, config.shape.width)
        self._config = config

    @property
    def weight_bytes(self) -> int:
        parameters: list[tuple[str, mx.array]] = tree_flatten(self.parameters())  # type: ignore[assignment]
        return sum(array.nbytes for _, array in parameters)

    def encode(self, texts: Sequence[EncoderInput]) -> NDArray[np.float32]:
        """(texts, dimensions), or (texts, 1) scores. Every text has at least one token."""
        longest = max(len(text.ids) for text in texts)
        ids, types = np.zeros((2, len(texts), longest), np.int32)
        real = np.zeros((len(texts), longest), np.bool_)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = text.ids
            types[row, : len(text.ids)] = text.types
            real[row, : len(text.ids)] = True
        there = mx.array(real)
        hidden = self.encoder(mx.array(ids), mx.array(types), there)
        return np.array(self._reduced(hidden, there).astype(mx.float32))

    def _reduced(self, hidden: mx.array, real: mx.array) -> mx.array:
        config = self._config
        if config.cross_encoder:
            return self.head(hidden)
        vectors = pool(hidden.astype(mx.float32), real, config.pooling)
        return normalized(vectors) if config.normalize else vectors


def load_encoder_in_slices(
    folder: Path, config: EncoderConfig, dtype: mx.Dtype | None, claim: Callable[[int], Iterable[float]]
) -> Generator[float, float | None, TextEncoder]:
    """`Slices` that load the weights, in `dtype` or, when that is None, as they are stored.

    What they will take is claimed before any is read: by slices that may raise. Raises
    `ModelFilesInvalid` unless the folder holds exactly the weights of this encoder.
    """
    yield 0.0
    model = TextEncoder(config)
    try:
        model.load_weights(sorted(_weights(folder, config).items()), strict=True)
    except ValueError as error:
        raise ModelFilesInvalid(folder, f"its weights are not those of its config.json: {error}") from error
    model.eval()
    weights = WeightSlices(model, {}, dtype)
    yield from claim(weights.nbytes)
    try:
        yield from weights.evaluate()
    except RuntimeError as error:
        raise ModelFilesInvalid(folder, f"its weights cannot be read: {error}") from error
    return model


def load_encoder(
    folder: Path, config: EncoderConfig, dtype: mx.Dtype | None, progress: Callable[[float], None]
) -> TextEncoder:
    """`load_encoder_in_slices`, all at once."""
    return at_once(load_encoder_in_slices(folder, config, dtype, lambda _: ()), progress)


def _weights(folder: Path, config: EncoderConfig) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            arrays = mx.load(str(file))
        except (RuntimeError, ValueError) as error:
            raise ModelFilesInvalid(file, f"cannot be read as safetensors: {error}") from error
        assert isinstance(arrays, dict)
        for name, array in arrays.items():
            try:
                ours = our_name(name, config.family, cross_encoder=config.cross_encoder)
            except KeyError:
                raise ModelFilesInvalid(file, f"holds a weight that is not understood: {name}") from None
            if ours is not None:
                weights[ours] = array
    return weights
