"""The imported folder run by mlx-lm against a numpy forward pass over the GGUF itself."""

from pathlib import Path

import pytest
from mlx_lm.utils import load_tokenizer

from gateway.model_store.store import StoredModel

from .float32_model import float32_model, near_ties
from .reference_model import ReferenceModel

pytestmark = pytest.mark.slow

NEW_TOKENS = 24
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


def test_greedy_answers_equal_the_reference(demo_file: Path, demo_model: StoredModel) -> None:
    """Measured when this was written: no difference in all 480 choices, logits within 3.2e-4."""
    tokenizer = load_tokenizer(demo_model.folder)
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True) for chat in CHATS]
    ties = near_ties(ReferenceModel(demo_file), float32_model(demo_model.folder), prompts, NEW_TOKENS, tolerance=2e-3)
    assert ties <= 1
