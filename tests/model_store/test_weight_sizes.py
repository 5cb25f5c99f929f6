"""Sizes that are predicted from headers, against what real loads take."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx.nn.layers.quantized import quantize
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from gateway.engine.encoders.encoder_config import read_encoder_config
from gateway.engine.encoders.text_encoder import load_encoder
from gateway.engine.model_loader import load_model
from gateway.errors import ModelFilesInvalid
from gateway.model_store.safetensors_header import read_safetensors_header
from gateway.model_store.weight_sizes import ModelSize, estimate_model
from tests.tiny_encoder import Family, write_tiny_encoder

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "vocab_size": 96,
    "max_position_embeddings": 256,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SHAPE | {"tie_word_embeddings": False},
    "llama-tied": SHAPE | {"model_type": "llama", "tie_word_embeddings": True},
    "qwen3": SHAPE | {"tie_word_embeddings": True, "rope_theta": 1e4},
    "gemma3_text": SHAPE | {"sliding_window": 32, "sliding_window_pattern": 2},
    "phi3": SHAPE | {"num_key_value_heads": 2, "head_dim": 32},
    "qwen3_moe": SHAPE
    | {
        "tie_word_embeddings": False,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 64,
        "rope_theta": 1e4,
        "norm_topk_prob": True,
    },
    "mamba": {
        **{key: SHAPE[key] for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")},
        "state_size": 8,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 32,
    },
}
QUANTISED = [("none", {}), ("4 bits", {"group_size": 32, "bits": 4}), ("mxfp4", {"group_size": 32, "mode": "mxfp4"})]


def write_model(
    folder: Path, name: str, quantization: dict[str, Any] | None = None, dtype: mx.Dtype = mx.bfloat16
) -> None:
    config = {"model_type": name} | CONFIGS[name]
    module = import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(dtype)
    if quantization:
        quantize(model, **quantization)
        config["quantization"] = {"bits": 4} | quantization
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))


def bytes_as_they_are(folder: Path) -> int:
    model, _ = mlx_lm.utils.load_model(folder, lazy=True)
    parameters: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # type: ignore[assignment]
    return sum(array.nbytes for _, array in parameters)


@pytest.mark.parametrize("quantization", [options for _, options in QUANTISED], ids=[name for name, _ in QUANTISED])
@pytest.mark.parametrize("name", CONFIGS)
def test_weights_take_what_was_predicted(name: str, quantization: dict[str, Any], tmp_path: Path) -> None:
    write_model(tmp_path, name, quantization)

    assert estimate_model(tmp_path, None).weight_bytes == bytes_as_they_are(tmp_path)
    loaded = load_model(tmp_path, mx.float32, lambda fraction: None)
    assert estimate_model(tmp_path, 4).weight_bytes == loaded.weight_bytes
    assert estimate_model(tmp_path, 4).file_bytes == (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_take_what_was_predicted(name: str, tmp_path: Path) -> None:
    """Caches of a prompt as long as the steps they grow by."""
    write_model(tmp_path, name)
    tokens = 256
    loaded = load_model(tmp_path, mx.float32, lambda fraction: None)
    caches = make_prompt_cache(loaded.model)
    mx.eval(loaded.model(mx.zeros((1, tokens), mx.int32), cache=caches))
    held = sum(cache.nbytes for cache in caches) if name != "mamba" else 0

    size = estimate_model(tmp_path, 4)

    per_window_token = size.window_bytes_per_token
    over = (held - size.kv_bytes(tokens)) / per_window_token if per_window_token else held - size.kv_bytes(tokens)
    assert over == (tokens - size.window_tokens if per_window_token else 0)  # mlx-lm keeps the whole last chunk too


def test_each_layer_may_be_quantised_its_own_way(tmp_path: Path) -> None:
    config = {"model_type": "llama"} | CONFIGS["llama"]
    module = import_module("mlx_lm.models.llama")
    model = module.Model(module.ModelArgs.from_dict(config))
    own = {"group_size": 64, "bits": 8}
    quantize(
        model, 32, 4, class_predicate=lambda path, part: own if path == "lm_head" else hasattr(part, "to_quantized")
    )
    config["quantization"] = {"group_size": 32, "bits": 4, "lm_head": own}
    (tmp_path / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), dict(tree_flatten(model.parameters())))

    loaded = load_model(tmp_path, mx.float32, lambda fraction: None)

    assert estimate_model(tmp_path, 4).weight_bytes == loaded.weight_bytes


@pytest.mark.parametrize("dtype_bytes", [None, 4])
def test_the_demo_model(demo_folder: Path, dtype_bytes: int | None) -> None:
    size = estimate_model(demo_folder, dtype_bytes)
    assert size.kv_bytes_per_token == 30 * 2 * 3 * 64 * (dtype_bytes or 2)
    if dtype_bytes:
        loaded = load_model(demo_folder, mx.float32, lambda fraction: None)
        assert size.weight_bytes == loaded.weight_bytes
    else:
        assert size.weight_bytes == bytes_as_they_are(demo_folder)


@pytest.mark.parametrize("cross_encoder", [False, True])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_encoders(family: Family, cross_encoder: bool, minilm_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    write_tiny_encoder(folder, family, minilm_folder, cross_encoder=cross_encoder)
    assert_encoder_as_predicted(folder)


def test_a_real_encoder(minilm_folder: Path) -> None:
    """Its file has a pooler, which embeddings do without."""
    assert_encoder_as_predicted(minilm_folder)


def assert_encoder_as_predicted(folder: Path) -> None:
    config = read_encoder_config(folder)
    assert config
    for dtype, dtype_bytes in ((None, None), (mx.float32, 4), (mx.float16, 2)):
        model = load_encoder(folder, config, dtype, lambda fraction: None)
        assert estimate_model(folder, dtype_bytes).weight_bytes == model.weight_bytes


def test_what_a_text_model_does_not_load_does_not_count(tmp_path: Path) -> None:
    write_model(tmp_path, "llama-tied")
    alone = estimate_model(tmp_path, 4).weight_bytes
    file = tmp_path / "model.safetensors"
    weights = mx.load(str(file))
    assert isinstance(weights, dict)
    more = ("vision_tower.x.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight")
    mx.save_safetensors(str(file), weights | {name: mx.zeros((96, 64)) for name in more})

    assert estimate_model(tmp_path, 4).weight_bytes == alone


def test_tokens_beyond_the_window_take_only_what_other_layers_keep() -> None:
    size = ModelSize(0, 0, kv_bytes_per_token=10, window_bytes_per_token=3, window_tokens=5)
    assert [size.kv_bytes(tokens) for tokens in (0, 5, 6)] == [0, 65, 75]


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    write_model(tmp_path, "llama")
    parts = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(parts))
    with pytest.raises(ModelFilesInvalid, match="1 of 2 weight files are missing: model-00002-of-00002"):
        estimate_model(tmp_path, None)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFilesInvalid, match="no file is named model"):
        estimate_model(tmp_path, None)


def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    write_model(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for kept in range(0, len(whole), len(whole) // 40):
        file.write_bytes(whole[:kept])
        with pytest.raises(ModelFilesInvalid, match=r"model\.safetensors"):
            estimate_model(tmp_path, None)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, "8"]},
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]},
        [],
        None,
    ],
)
def test_a_header_that_lies(entry: object, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    header = json.dumps({"weight": entry}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelFilesInvalid, match="header is broken"):
        read_safetensors_header(file)
