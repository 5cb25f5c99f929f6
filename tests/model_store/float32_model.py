"""An imported folder run by mlx-lm in float32, and its greedy choices beside a reference's."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.utils import dequantize_model, load_model
from numpy.typing import NDArray

from .reference_model import ReferenceModel


def float32_model(folder: Path) -> Any:
    """The imported model with all weights expanded to float32."""
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)  # before expanding, so that nothing is rounded to float16
    model = dequantize_model(model)
    mx.eval(model.parameters())
    return model


def last_logits(model: Any, text: list[int], keep: int) -> NDArray[np.float32]:
    """The logits at the last `keep` positions of a text, of a model without an output layer of its own."""
    hidden = model.model(mx.array([text]))[0, -keep:]
    return np.array(model.model.embed_tokens.as_linear(hidden))


def near_ties(
    reference: ReferenceModel, model: Any, prompts: list[list[int]], new_tokens: int, tolerance: float
) -> int:
    """Asserts that the model chooses the reference's greedy answers; returns how many near ties went another way.

    Teacher-forced: fed the reference's answer, mlx must choose each next token of it again. That is the same as
    generating greedily with both, and needs one forward pass per prompt. `tolerance` is how far logits may be apart,
    and what is near: float32 sums taken in another order differ.
    """
    answers, reference_logits = reference.greedy(prompts, new_tokens)
    ties = 0
    for prompt, answer, theirs in zip(prompts, answers, reference_logits, strict=True):
        ours = last_logits(model, prompt + answer[:-1], new_tokens)
        assert np.abs(ours - np.stack(theirs)).max() < tolerance
        for position in range(new_tokens):
            second, best = np.sort(theirs[position])[-2:]
            if ours[position].argmax() != theirs[position].argmax():
                ties += 1
                assert best - second < tolerance
    return ties
