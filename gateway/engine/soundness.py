"""Whether a model folder can be computed with. For a process of its own: at the end its mlx is of no more use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import mlx_lm.utils
import numpy as np

from gateway.engine.encoders.encoder_config import EncoderConfig
from gateway.engine.encoders.text_encoder import load_encoder
from gateway.engine.encoders.tokenizer import EncoderTokenizer
from gateway.engine.model_loader import load_text_side
from gateway.errors import ModelFilesInvalid

TEXT = "The quick brown fox"


def try_text_model(folder: Path, *, compute: bool) -> list[str]:
    """Loads tokenizer and model, which compares every shape with the config, and with `compute` feeds it a text.

    Returns what was found to be sound. Raises `ModelStoreError`, or what mlx-lm raises for files that do not fit.
    """
    side = load_text_side(folder)
    tokens = side.tokenizer.encode(TEXT)
    if not tokens or max(tokens) >= side.vocabulary:
        raise ModelFilesInvalid(folder, f"its tokenizer makes {tokens} of a text, for {side.vocabulary} tokens")
    with _mlx():
        model, _ = mlx_lm.utils.load_model(folder, lazy=True)
        if not compute:
            return ["tokenizer", "shapes"]
        logits = model(mx.array([tokens]))[0, -1].astype(mx.float32)
        _require_finite(folder, np.array(logits))
    return ["tokenizer", "shapes", "forward pass"]


def try_encoder(folder: Path, config: EncoderConfig, *, compute: bool) -> list[str]:
    """As `try_text_model`."""
    text = EncoderTokenizer(folder, config).text(TEXT, config.context_tokens)
    if not compute:
        return ["tokenizer"]
    with _mlx():
        _require_finite(folder, load_encoder(folder, config, None, lambda _fraction: None).encode([text]))
    return ["tokenizer", "shapes", "forward pass"]


def _require_finite(folder: Path, numbers: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> None:
    if not np.isfinite(numbers).all():
        raise ModelFilesInvalid(folder, "it computes numbers that are not finite, so its weights are broken")


@contextmanager
def _mlx() -> Iterator[None]:
    try:
        yield
    finally:
        mx.clear_streams()  # a process that leaves this out often crashes at its end
