"""Tiny models of every architecture that has no real one here: all logits against the numpy reference."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gateway.model_store.store import ModelStore

from .float32_model import float32_model
from .reference_model import ReferenceModel, Sequence
from .tiny_gguf import HEADS, HIDDEN, KV_HEADS, LAYERS, tiny_tensors, write_gguf

PROMPT = [1, 17, 42, 260, 3, 99, 17, 200, 5, 263, 2]


@pytest.mark.parametrize("with_output", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_logits_equal_the_reference(
    architecture: str, with_output: bool, tmp_path: Path, silent: Callable[[float, str], None]
) -> None:
    tensors = tiny_tensors(with_output=with_output, architecture=architecture)
    file = write_gguf(tmp_path / "tiny.gguf", tensors=tensors, architecture=architecture)
    model = float32_model(ModelStore(tmp_path / "store").locate(str(file), silent).folder)
    reference = ReferenceModel(file)

    ours = np.array(model(mx.array([PROMPT]))[0])

    for length in range(1, len(PROMPT) + 1):
        sequence = Sequence(LAYERS, KV_HEADS, HIDDEN // HEADS)
        (theirs,) = reference.last_logits([PROMPT[:length]], [sequence])
        np.testing.assert_allclose(ours[length - 1], theirs, rtol=1e-4, atol=2e-4 * np.abs(theirs).max())
