"""The imported folder run by mlx-lm against a numpy forward pass over the GGUF itself."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import dequantize_model, load_model, load_tokenizer
from numpy.typing import NDArray

from gateway.model_store.store import StoredModel

from .reference_llama import ReferenceLlama

NEW_TOKENS = 24
NEAR_TIE = 1e-3  # logits; float32 sums taken in another order differ by some 1e-4 here
TERSE = {"role": "system", "content": "Be brief."}
QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about rain.",
    "def fibonacci(n):",
    "List three prime numbers.",
    "Translate 'good morning' to German.",
    "What is 17 + 25?",
    "Explain recursion to a child.",
    "SELECT name FROM users WHERE",
    "Why is the sky blue?",
    "Tell me a joke about cats.",
    "How do I reverse a list in Python?",
    "Name a colour that begins with T.",
    "¿Cómo te llamas?",
    "日本の首都はどこですか。",
    "What does HTTP 404 mean?",
    "Give me a synonym for happy 🙂",
]
CHATS = [
    *([TERSE, {"role": "user", "content": question}] for question in QUESTIONS),
    # without a system message the template adds its own
    [{"role": "user", "content": "Who are you?"}],
    [{"role": "user", "content": "1 2 3 4 5"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "   \n\t"}],
    [
        TERSE,
        {"role": "user", "content": "Pick a fruit."},
        {"role": "assistant", "content": "Apple."},
        {"role": "user", "content": "Another one."},
    ],
]


@pytest.fixture(scope="module")
def reference(demo_file: Path) -> ReferenceLlama:
    return ReferenceLlama(demo_file)


@pytest.fixture(scope="module")
def imported(demo_model: StoredModel) -> Any:
    """The imported model with all weights expanded to float32."""
    model, _ = load_model(demo_model.folder)
    model.set_dtype(mx.float32)  # before expanding, so that nothing is rounded to float16
    model = dequantize_model(model)
    mx.eval(model.parameters())
    return model


def mlx_logits(model: Any, text: list[int], keep: int) -> NDArray[np.float32]:
    """The logits at the last `keep` positions of a text."""
    hidden = model.model(mx.array([text]))[0, -keep:]
    return np.array(model.model.embed_tokens.as_linear(hidden))


def test_greedy_answers_equal_the_reference(reference: ReferenceLlama, imported: Any, demo_model: StoredModel) -> None:
    """Teacher-forced: fed the reference's answer, mlx must choose each next token of it again.

    That is the same as generating greedily with both, and needs one forward pass per prompt.
    Measured when this was written: no difference in all 480 choices, logits within 3.2e-4.
    """
    tokenizer = load_tokenizer(demo_model.folder)
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True) for chat in CHATS]
    answers, reference_logits = reference.greedy(prompts, NEW_TOKENS)

    near_ties = 0
    for prompt, answer, theirs in zip(prompts, answers, reference_logits, strict=True):
        ours = mlx_logits(imported, prompt + answer[:-1], NEW_TOKENS)
        assert np.abs(ours - np.stack(theirs)).max() < 2e-3
        for position in range(NEW_TOKENS):
            second, best = np.sort(theirs[position])[-2:]
            if ours[position].argmax() != theirs[position].argmax():
                near_ties += 1
                assert best - second < NEAR_TIE
    assert near_ties <= 1
