"""Architectures without a reference of their own: random models of mlx-lm, written as llama.cpp writes them.

The GGUF's side is what llama.cpp's convert_hf_to_gguf.py does to a checkpoint: names, order of rows, norms that hold
one more. The imported model must compute what the original does.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from gateway.errors import ModelFilesInvalid
from gateway.model_store.store import ModelStore

from .float32_model import float32_model
from .tiny_gguf import HEADS, HIDDEN, KV_HEADS, LAYERS, TOKENS, WIDE, write_gguf

Report = Callable[[float, str], None]
Array = NDArray[np.float32]
PROMPT = [1, 17, 42, 260, 3, 99, 17, 200, 5, 263, 2]
CONFIG = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "intermediate_size": WIDE,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-5,
    "vocab_size": len(TOKENS),
    "max_position_embeddings": 128,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate": "ffn_gate_inp",
    "mlp.switch_mlp.gate_proj": "ffn_gate_exps",
    "mlp.switch_mlp.up_proj": "ffn_up_exps",
    "mlp.switch_mlp.down_proj": "ffn_down_exps",
}
GEMMA2_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


@dataclass(frozen=True)
class Case:
    """`config` is the original's, `metadata` what llama.cpp writes of it, each beyond what all have."""

    architecture: str
    module: str
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    interleaved: bool = False
    norms_hold_one_more: bool = False
    numbers: Mapping[str, Array] = field(default_factory=dict)


def llama3_factors(theta: float, dims: int, factor: float) -> Array:
    """As convert_hf_to_gguf.py computes `rope_freqs.weight`."""
    freqs = 1.0 / (theta ** (np.arange(0, dims, 2) / dims))
    low_wavelength, high_wavelength = 8192 / 1.0, 8192 / 4.0
    factors = []
    for wavelength in 2 * np.pi / freqs:
        if wavelength < high_wavelength:
            factors.append(1.0)
        elif wavelength > low_wavelength:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


HEAD = HIDDEN // HEADS
LONG, SHORT = np.linspace(1, 9, 6, dtype=np.float32), np.linspace(1, 2, 6, dtype=np.float32)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CASES = {
    "llama-3.1": Case(
        "llama",
        "llama",
        config={"rope_theta": 5000.0, "rope_scaling": LLAMA3},
        metadata={"llama.rope.freq_base": 5000.0, "llama.rope.dimension_count": HEAD},
        interleaved=True,
        numbers={"rope_freqs.weight": llama3_factors(5000.0, HEAD, 8.0)},
    ),
    "llama, without ties": Case("llama", "llama", config={"tie_word_embeddings": False}, interleaved=True),
    "smollm3": Case(
        "smollm3", "smollm3", config={"num_hidden_layers": 4}, metadata={"smollm3.block_count": 4}, interleaved=True
    ),
    "granite": Case(
        "granite",
        "granite",
        config={
            "attention_multiplier": 0.2,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "attention_bias": False,
            "mlp_bias": False,
        },
        metadata={
            "granite.attention.scale": 0.2,
            "granite.embedding_scale": 12.0,
            "granite.residual_scale": 0.22,
            "granite.logit_scale": 8.0,
        },
        interleaved=True,
    ),
    "gemma": Case(
        "gemma",
        "gemma",
        config={"head_dim": 32},
        metadata={"gemma.attention.key_length": 32, "gemma.attention.value_length": 32},
        norms_hold_one_more=True,
    ),
    "gemma2": Case(
        "gemma2",
        "gemma2",
        config={
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        metadata={
            "gemma2.attention.key_length": 32,
            "gemma2.attention.value_length": 32,
            "gemma2.attention.sliding_window": 64,
            "gemma2.attn_logit_softcapping": 50.0,
            "gemma2.final_logit_softcapping": 30.0,
        },
        names=GEMMA2_NAMES,
        norms_hold_one_more=True,
    ),
    "phi3": Case(
        "phi3",
        "phi3",
        config={"tie_word_embeddings": False},
        metadata={"phi3.rope.dimension_count": HEAD, "phi3.attention.sliding_window": 64},
    ),
    "phi3 with a long context": Case(
        "phi3",
        "phi3",
        config={
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 32,
            "rope_scaling": {"type": "longrope", "long_factor": LONG.tolist(), "short_factor": SHORT.tolist()},
        },
        metadata={
            "phi3.rope.dimension_count": 12,
            "phi3.rope.scaling.original_context_length": 32,
            "phi3.rope.scaling.attn_factor": 1.19,
        },
        numbers={"rope_factors_long.weight": LONG, "rope_factors_short.weight": SHORT},
    ),
    "qwen3moe": Case(
        "qwen3moe",
        "qwen3_moe",
        config={
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        },
        metadata={
            "qwen3moe.attention.key_length": 32,
            "qwen3moe.attention.value_length": 32,
            "qwen3moe.expert_count": 4,
            "qwen3moe.expert_used_count": 2,
            "qwen3moe.expert_feed_forward_length": 32,
        },
    ),
}


def original(case: Case) -> Any:
    """A model whose numbers all matter: norms that are not 1, weights wide enough for attention to choose."""
    module = importlib.import_module(f"mlx_lm.models.{case.module}")
    model = module.Model(module.ModelArgs.from_dict({"model_type": case.module, **CONFIG, **case.config}))
    random = np.random.default_rng(7)
    weights = {
        name: mx.array(random.standard_normal(array.shape, np.float32) * (0.2 if array.ndim > 1 else 0.4))
        for name, array in dict(tree_flatten(model.parameters())).items()
    }
    model.load_weights(list(weights.items()))
    return model


def permuted(rows: Array, heads: int) -> Array:
    """`LlamaModel.permute` of convert_hf_to_gguf.py."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def as_gguf(case: Case, model: Any, kind: GGMLQuantizationType) -> dict[str, tuple[Array, GGMLQuantizationType]]:
    tensors = {}
    for name, array in dict(tree_flatten(model.parameters())).items():
        values = np.array(array)
        place, _, part = name.rpartition(".")
        names = {**NAMES, **case.names}
        if place.startswith("model.layers."):
            _, _, layer, within = place.split(".", 3)
            gguf_name = f"blk.{layer}.{names[within]}.{part}"
            if case.interleaved and names[within] in ("attn_q", "attn_k"):
                values = permuted(values, HEADS if names[within] == "attn_q" else KV_HEADS)
        else:
            gguf_name = f"{names[place]}.{part}"
        if case.norms_hold_one_more and gguf_name.endswith("norm.weight"):
            values = values + 1
        plain = values.ndim == 1 or "gate_inp" in gguf_name
        tensors[gguf_name] = (values, GGMLQuantizationType.F32 if plain else kind)
    return tensors | {name: (values, GGMLQuantizationType.F32) for name, values in case.numbers.items()}


def imported(case: Case, model: Any, kind: GGMLQuantizationType, folder: Path, silent: Report) -> Any:
    metadata = {f"{case.architecture}.attention.layer_norm_rms_epsilon": 1e-5, **case.metadata}
    file = write_gguf(
        folder / "tiny.gguf", metadata, tensors=as_gguf(case, model, kind), architecture=case.architecture
    )
    return float32_model(ModelStore(folder / "store").locate(str(file), silent).folder)


@pytest.mark.parametrize("name", CASES)
def test_the_import_computes_what_the_original_does(name: str, tmp_path: Path, silent: Report) -> None:
    model = original(CASES[name])
    expected = np.array(model(mx.array([PROMPT])))

    ours = np.array(imported(CASES[name], model, GGMLQuantizationType.F32, tmp_path, silent)(mx.array([PROMPT])))

    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_quantised_experts_keep_their_numbers(tmp_path: Path, silent: Report) -> None:
    """Three dimensions, packed as mlx computes with them."""
    from gguf import dequantize, quantize

    model, kind = original(CASES["qwen3moe"]), GGMLQuantizationType.Q4_0
    weights = dict(tree_flatten(model.parameters()))
    rounded = {
        name: mx.array(dequantize(quantize(np.array(array), kind), kind))
        for name, array in weights.items()
        if array.ndim > 1 and not name.endswith("mlp.gate.weight")
    }
    model.load_weights(list((weights | rounded).items()))
    expected = np.array(model(mx.array([PROMPT])))

    ours = np.array(imported(CASES["qwen3moe"], model, kind, tmp_path, silent)(mx.array([PROMPT])))

    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "tensor", "values"),
    [
        ("llama-3.1", "rope_freqs.weight", np.linspace(1, 8, 8, dtype=np.float32)),
        ("llama-3.1", "rope_freqs.weight", np.full(4, 8, np.float32)),
        ("llama-3.1", "rope_freqs.weight", np.full(8, np.nan, np.float32)),
        ("phi3 with a long context", "rope_factors_short.weight", np.ones(5, np.float32)),
        ("smollm3", "rope_freqs.weight", np.ones(8, np.float32)),
    ],
)
def test_unknown_factors_are_refused(name: str, tensor: str, values: Array, tmp_path: Path, silent: Report) -> None:
    case = CASES[name]
    changed = Case(**{**case.__dict__, "numbers": {**case.numbers, tensor: values}})
    with pytest.raises(ModelFilesInvalid, match=tensor.replace(".", r"\.")):
        imported(changed, original(case), GGMLQuantizationType.F32, tmp_path, silent)
