"""The imported weights against the gguf package's own dequantisation: every number of every tensor, exactly."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from mlx_lm.utils import load_model
from numpy.typing import NDArray

from gateway.errors import ModelFilesInvalid
from gateway.model_store.gguf_file import GgufTensor
from gateway.model_store.gguf_tensors import PIECE_ELEMENTS, TensorMove, moved_tensor
from gateway.model_store.safetensors_file import write_safetensors
from gateway.model_store.store import ModelStore, StoredModel

from .tiny_gguf import HIDDEN, tiny_tensors, write_gguf

Report = Callable[[float, str], None]
EXPANDED_KINDS = [
    *("BF16", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", "MXFP4"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
]
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
    """Unpacked by hand: a little-endian stream of levels of a few bits, one scale and bias per 32 inputs."""
    weight = np.array(arrays[f"{name}.weight"])
    if f"{name}.scales" not in arrays:
        return weight.astype(np.float32)
    scales, biases = (np.array(arrays[f"{name}.{part}"]).astype(np.float32) for part in ("scales", "biases"))
    bits = weight.shape[1] * 32 // (scales.shape[1] * 32)
    stream = np.unpackbits(weight.astype("<u4").view(np.uint8), bitorder="little")
    levels = np.packbits(stream.reshape(*scales.shape, 32, bits), axis=-1, bitorder="little")[..., 0]
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


@pytest.mark.slow
def test_every_number_of_the_demo_model_is_the_ggufs(demo_file: Path, demo_model: StoredModel) -> None:
    assert compare_all(demo_file, demo_model.folder) == 272


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "F32"])
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


@pytest.mark.parametrize("kind", EXPANDED_KINDS)
def test_every_other_kind_arrives_as_float16(kind: str, tmp_path: Path) -> None:
    """Blocks of random bytes, so that every bit counts; those whose numbers are too large are left out."""
    quantization = GGMLQuantizationType[kind]
    _, block_bytes = gguf.GGML_QUANT_SIZES[quantization]
    blocks = np.random.default_rng(7).integers(0, 256, (600, block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        numbers = gguf.quants.dequantize(blocks, quantization)
        usable = np.abs(numbers).max(axis=1) < 60_000
    assert usable.sum() > 100
    blocks, expected = blocks[usable], numbers[usable].astype(np.float16)
    tensor = GgufTensor("blk.0.ffn_up.weight", expected.shape, quantization, blocks)
    move = TensorMove(tensor.name, "up.weight", expected.shape)

    (outgoing,), bits = moved_tensor(tensor, move, partial(ModelFilesInvalid, tmp_path))
    write_safetensors(tmp_path / "model.safetensors", [outgoing], lambda _bytes: None)

    arrays: Any = mx.load(str(tmp_path / "model.safetensors"))
    assert bits is None
    np.testing.assert_array_equal(np.array(arrays["up.weight"]), expected)


def test_a_large_tensor_is_converted_in_pieces(tmp_path: Path) -> None:
    numbers = np.random.default_rng(7).standard_normal((3 * PIECE_ELEMENTS // 4096 + 5, 4096), dtype=np.float32)
    data = gguf.quants.quantize(numbers, GGMLQuantizationType.Q8_0)
    tensor = GgufTensor("output.weight", numbers.shape, GGMLQuantizationType.Q8_0, data)

    weight, *_ = moved_tensor(tensor, TensorMove("", "", numbers.shape), partial(ModelFilesInvalid, tmp_path))[0]

    sizes = [piece.shape for piece in weight.pieces()]
    assert sizes == [(PIECE_ELEMENTS // 4096, 1024)] * 3 + [(5, 1024)]
