"""Gemma 3 270M, a real model with K-quants and sliding windows, from its GGUF to a served conversation."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_tokenizer

from gateway.model_store.store import ModelStore, StoredModel
from tests.conftest import running_server

from .float32_model import float32_model, near_ties
from .reference_gemma3 import ReferenceGemma3

NEW_TOKENS = 12
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    if n",
    "Die Hauptstadt von Deutschland ist",
    "1, 1, 2, 3, 5, 8,",
    "日本の首都は",
    "Once upon a time, there was a little girl who",
    # longer than the window of 512 tokens
    "".join(f"Item {number}: the price is {number * 7 % 13} euros.\n" for number in range(1, 60)) + "Item 60:",
]
CHAT = [
    {"role": "system", "content": "Answer with one word."},
    {"role": "user", "content": "What is the capital of France?"},
]
CHAT_TEXT = (
    "<bos><start_of_turn>user\nAnswer with one word.\n\nWhat is the capital of France?<end_of_turn>\n"
    "<start_of_turn>model\n"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(gemma_file: Path) -> ReferenceGemma3:
    return ReferenceGemma3(gemma_file)


@pytest.fixture(scope="module")
def gemma(gemma_store: Path, gemma_file: Path) -> StoredModel:
    return ModelStore(gemma_store).locate(str(gemma_file), lambda _fraction, _doing: None)


def test_every_number_is_the_ggufs(reference: ReferenceGemma3, gemma: StoredModel) -> None:
    """Norms less the 1 they hold, K-quants as the nearest float16, all others exactly."""
    model = float32_model(gemma.folder)
    imported: dict[str, Any] = dict(tree_flatten(model.parameters()))
    assert len(imported) == len(reference.weights) == 236
    for name, expected in reference.weights.items():
        ours = np.array(imported[_new_name(name)])
        theirs = expected - 1 if name.endswith("norm.weight") else expected
        kind = next(tensor.tensor_type.name for tensor in reference.reader.tensors if tensor.name == name)
        if kind in ("Q4_K", "Q6_K"):
            theirs = theirs.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(ours, theirs, name)


def test_greedy_answers_equal_the_reference(reference: ReferenceGemma3, gemma: StoredModel) -> None:
    """Measured when this was written: no difference in all 84 choices, logits up to 40 within 0.022."""
    tokenizer = load_tokenizer(gemma.folder)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    assert len(prompts[-1]) > 1.5 * reference.window

    ties = near_ties(reference, float32_model(gemma.folder), prompts, NEW_TOKENS, tolerance=0.05)

    assert ties <= 1


def test_a_chat_is_served(reference: ReferenceGemma3, gemma: StoredModel, gemma_store: Path, gemma_file: Path) -> None:
    """Begun with one <bos>, answered as the reference does, ended by what ends a turn."""
    tokenizer = load_tokenizer(gemma.folder)
    prompt = tokenizer.encode(CHAT_TEXT, add_special_tokens=False)
    (tokens,), _ = reference.greedy([prompt], NEW_TOKENS)
    ends = [at for at, token in enumerate(tokens) if tokenizer.decode([token]) in ("<eos>", "<end_of_turn>")]
    answer = tokens[: ends[0]] if ends else tokens

    with running_server(gemma_store, "--model", str(gemma_file)) as server:
        request = {"model": gemma.model_id, "messages": CHAT, "temperature": 0, "max_tokens": NEW_TOKENS}
        response = httpx.post(f"{server.url}/v1/chat/completions", json=request, timeout=120)

    assert response.status_code == 200
    content = response.json()
    assert content["usage"]["prompt_tokens"] == len(prompt)
    assert content["choices"][0]["message"]["content"] == tokenizer.decode(answer)
    assert content["choices"][0]["finish_reason"] == ("stop" if ends else "length")


def _new_name(gguf_name: str) -> str:
    outer = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if gguf_name in outer:
        return outer[gguf_name]
    _, layer, part, _ = gguf_name.split(".")
    return f"model.layers.{layer}.{NEW_NAMES[part]}.weight"


NEW_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
