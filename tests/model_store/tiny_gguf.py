"""GGUFs of some 100 kB that a test can spoil in one place. Written with the `gguf` package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

from .reference_bpe import BYTE_TO_CHARACTER

LAYERS, HIDDEN, WIDE, HEADS, KV_HEADS = 2, 64, 96, 4, 2
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r"]
TOKENS = [*SPECIAL_TOKENS, *BYTE_TO_CHARACTER.values(), *(merge.replace(" ", "") for merge in MERGES)]

HEAD_NORMS: Mapping[str, tuple[int, ...]] = {
    "attn_q_norm.weight": (HIDDEN // HEADS,),
    "attn_k_norm.weight": (HIDDEN // HEADS,),
}
KEYS = HIDDEN * KV_HEADS // HEADS
FURTHER_TENSORS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "qwen2": {"attn_q.bias": (HIDDEN,), "attn_k.bias": (KEYS,), "attn_v.bias": (KEYS,)},
    "qwen3": HEAD_NORMS,
    "gemma3": {**HEAD_NORMS, "post_attention_norm.weight": (HIDDEN,), "post_ffw_norm.weight": (HIDDEN,)},
}

Tensors = dict[str, tuple[NDArray[np.float32], GGMLQuantizationType]]


def tiny_metadata(architecture: str = "llama") -> dict[str, Any]:
    """Keys and values for that architecture; a key set to None is left out of the file."""
    further = {"gemma3": {"gemma3.attention.sliding_window": 8, "gemma3.attention.sliding_window_pattern": LAYERS}}
    return {
        "general.architecture": architecture,
        "general.license": "apache-2.0",
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": 128,
        f"{architecture}.embedding_length": HIDDEN,
        f"{architecture}.feed_forward_length": WIDE,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": KV_HEADS,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.freq_base": 10000.0,
        **further.get(architecture, {}),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL_TOKENS) + [1] * (len(TOKENS) - len(SPECIAL_TOKENS)),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }


def tiny_tensors(
    matrices: GGMLQuantizationType = GGMLQuantizationType.Q8_0,
    *,
    with_output: bool = False,
    architecture: str = "llama",
) -> Tensors:
    """Tensors by GGUF name: values, and the type they are stored as; norms and biases are always F32."""
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    if with_output:
        shapes["output.weight"] = (len(TOKENS), HIDDEN)
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (HIDDEN,),
            f"blk.{layer}.attn_q.weight": (HIDDEN, HIDDEN),
            f"blk.{layer}.attn_k.weight": (KEYS, HIDDEN),
            f"blk.{layer}.attn_v.weight": (KEYS, HIDDEN),
            f"blk.{layer}.attn_output.weight": (HIDDEN, HIDDEN),
            f"blk.{layer}.ffn_norm.weight": (HIDDEN,),
            f"blk.{layer}.ffn_gate.weight": (WIDE, HIDDEN),
            f"blk.{layer}.ffn_up.weight": (WIDE, HIDDEN),
            f"blk.{layer}.ffn_down.weight": (HIDDEN, WIDE),
            **{f"blk.{layer}.{part}": shape for part, shape in FURTHER_TENSORS.get(architecture, {}).items()},
        }
    return {
        name: (
            random.standard_normal(shape, dtype=np.float32),
            matrices if len(shape) == 2 else GGMLQuantizationType.F32,
        )
        for name, shape in shapes.items()
    }


def write_gguf(
    path: Path, changes: Mapping[str, Any] | None = None, tensors: Tensors | None = None, *, architecture: str = "llama"
) -> Path:
    """Write the tiny model with some metadata changed (None removes a key) or with other tensors."""
    metadata = {**tiny_metadata(architecture), **(changes or {})}
    writer = GGUFWriter(path, metadata.pop("general.architecture"))
    for key, value in metadata.items():
        match value:
            case None:
                pass
            case bool():
                writer.add_bool(key, value)
            case str():
                writer.add_string(key, value)
            case float():
                writer.add_float32(key, value)
            case int():
                writer.add_uint32(key, value)
            case _:
                writer.add_array(key, value)
    for name, (values, kind) in (tiny_tensors(architecture=architecture) if tensors is None else tensors).items():
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
