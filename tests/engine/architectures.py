"""Random-weight models of every kind of cache: full attention, sliding window, state space, and both together."""

from functools import cache
from importlib import import_module
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

SLIDING_WINDOW = 300
VOCABULARY = 50
COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": COMMON,
    "gemma3_text": COMMON | {"sliding_window": SLIDING_WINDOW, "sliding_window_pattern": 2},
    "mamba": {
        **{key: COMMON[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")},
        "state_size": 8,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    "falcon_h1": COMMON
    | {"mamba_d_ssm": 64, "mamba_n_heads": 2, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_chunk_size": 32},
}

MORE_MODELS: dict[str, dict[str, Any]] = {
    "qwen3": COMMON | {"max_position_embeddings": 512, "rope_theta": 10_000.0, "tie_word_embeddings": False}
}
"""Whose caches are like one of those, and whose layers are not."""


@cache
def build(name: str, dtype: mx.Dtype = mx.bfloat16) -> Any:
    """bfloat16 needs no BLAS threads, which fight over a busy machine's cores; float32 is exact enough to compare."""
    mx.random.seed(3)
    module = import_module(f"mlx_lm.models.{name}")
    model = module.Model(module.ModelArgs.from_dict({"model_type": name} | (MODELS | MORE_MODELS)[name]))
    if dtype == mx.float32:  # wider than untrained weights, so that logits differ clearly
        model.update(tree_map(lambda weight: 3 * weight if weight.ndim == 2 else weight, model.parameters()))
    model.set_dtype(dtype)
    model.eval()
    mx.eval(model.parameters())
    return model
