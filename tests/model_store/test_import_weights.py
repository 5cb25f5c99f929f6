"""The imported weights against the gguf package's own dequantisation: every number of every tensor, exactly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from mlx_lm.utils import load_model
from numpy.typing import NDArray

from gateway.model_store.store import ModelStore, StoredModel

from .tiny_gguf import HIDDEN, tiny_tensors, write_gguf

Report = Callable[[float, str], None]
NEW_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def new_name(gguf_name: str) -> str:
    old = gguf_name.removesuffix(".weight")
    if old in OUTER_NAMES:
        return OUTER_NAMES[old]
    _, layer, part = old.split(".")
    return f"model.layers.{layer}.{NEW_NAMES[part]}"


def dequantized(arrays: dict[str, mx.array], name: str) -> NDArray[np.float32]:
    """Unpacked by hand: little-endian groups of 4 or 8 bits in uint32, one scale and bias per 32 inputs."""
    weight = np.array(arrays[f"{name}.weight"])
    if f"{name}.scales" not in arrays:
        return weight.astype(np.float32)
    scales, biases = (np.array(arrays[f"{name}.{part}"]).astype(np.float32) for part in ("scales", "biases"))
    bits = weight.shape[1] * 32 // (scales.shape[1] * 32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    levels = (weight[..., None] >> shifts & np.uint32(2**bits - 1)).reshape(*scales.shape, 32)
    numbers = scales[..., None] * levels.astype(np.float32) + biases[..., None]
    return numbers.astype(np.float32).reshape(len(weight), -1)


def hugging_face_order(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's `permute`, by the transposition it is."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def compare_all(file: Path, folder: Path) -> int:
    """Compare every tensor; returns how many there are."""
    reader = gguf.GGUFReader(file)
    heads = {
        "attn_q": reader.fields["llama.attention.head_count"].contents(),
        "attn_k": reader.fields["llama.attention.head_count_kv"].contents(),
    }
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    for tensor in reader.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for part, count in heads.items():
            if f".{part}." in tensor.name:
                expected = hugging_face_order(expected, count)
        np.testing.assert_array_equal(dequantized(arrays, new_name(tensor.name)), expected, tensor.name)
    names = {name.rsplit(".", 1)[0] for name in arrays}
    assert names == {new_name(tensor.name) for tensor in reader.tensors}
    return len(reader.tensors)


def test_every_number_of_the_demo_model_is_the_ggufs(demo_file: Path, demo_model: StoredModel) -> None:
    assert compare_all(demo_file, demo_model.folder) == 272


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "F16", "F32"])
def test_every_kind_of_weight_keeps_its_numbers(kind: str, tmp_path: Path, silent: Report) -> None:
    tensors = tiny_tensors(GGMLQuantizationType[kind], with_output=True)
    file = write_gguf(tmp_path / "tiny.gguf", tensors=tensors)

    model = ModelStore(tmp_path / "store").locate(str(file), silent)

    assert compare_all(file, model.folder) == len(tensors)
    loaded, config = load_model(model.folder)
    assert loaded(mx.array([[1, 2, 3]])).shape == (1, 3, config["vocab_size"])
    assert config["tie_word_embeddings"] is False


def test_layers_of_unlike_width_are_told_apart(tmp_path: Path, silent: Report) -> None:
    tensors = tiny_tensors(GGMLQuantizationType.Q4_1)
    values, _ = tensors["blk.1.ffn_up.weight"]
    tensors["blk.1.ffn_up.weight"] = (values, GGMLQuantizationType.Q8_0)
    plain, _ = tensors["blk.0.attn_v.weight"]
    tensors["blk.0.attn_v.weight"] = (plain, GGMLQuantizationType.F16)
    file = write_gguf(tmp_path / "tiny.gguf", tensors=tensors)

    model = ModelStore(tmp_path / "store").locate(str(file), silent)

    quantization = json.loads((model.folder / "config.json").read_text())["quantization"]
    assert quantization == {
        "group_size": 32,
        "bits": 4,
        "mode": "affine",
        "model.layers.1.mlp.up_proj": {"group_size": 32, "bits": 8},
    }
    assert compare_all(file, model.folder) == len(tensors)
    load_model(model.folder)


def test_norms_stay_float32_where_float16_would_change_them(tmp_path: Path, silent: Report) -> None:
    tensors = tiny_tensors()
    tensors["output_norm.weight"] = (np.full(HIDDEN, 1.0, np.float32), GGMLQuantizationType.F32)
    file = write_gguf(tmp_path / "tiny.gguf", tensors=tensors)

    model = ModelStore(tmp_path / "store").locate(str(file), silent)

    arrays: Any = mx.load(str(model.folder / "model.safetensors"))
    assert arrays["model.norm.weight"].dtype == mx.float16
    assert arrays["model.layers.0.input_layernorm.weight"].dtype == mx.float32


def test_linear_rope_scaling_reaches_the_config(tmp_path: Path, silent: Report) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    file = write_gguf(tmp_path / "tiny.gguf", scaling)

    model = ModelStore(tmp_path / "store").locate(str(file), silent)

    loaded, _ = load_model(model.folder)
    assert loaded.layers[0].self_attn.rope.scale == 0.25
