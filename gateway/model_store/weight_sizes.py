"""How much memory a model will take, from its config and the headers of its files: nothing else is read.

The weights' size is exact for what mlx-lm loads tensor by tensor. Formats that only mlx-lm's own conversions understand
(AWQ, GPTQ) are taken as they are on disk; the load says what they really take. Keys and values are an estimate: what is
measured once the model is there (`engine.kv_layout`) counts.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import ModelFilesInvalid
from gateway.model_store.safetensors_header import TYPE_BYTES, StoredTensor, read_safetensors_header

NOT_LOADED = re.compile(
    r"(.*\.)?(vision_tower|vision_model|visual|multi_modal_projector|audio_tower|embed_vision|embed_audio|mtp)\..*"
    r"|.*\.rotary_emb\.inv_freq"
)
"""Of text models: parts for pictures and sounds, drafts ahead, and tables that are computed anyway."""

TIED_HEAD = re.compile(r"(.*\.)?lm_head\..*")

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
NOT_ENCODING = re.compile(r"(bert\.|roberta\.|distilbert\.)?(embeddings\.position_ids|cls\.|lm_head\.|vocab_\w+\.).*")
POOLER = re.compile(r"(bert\.|roberta\.)?pooler\..*")

BLOCK_ELEMENTS = {"mxfp4": 32, "mxfp8": 32, "nvfp4": 16}
DEFAULT_GROUP = 64
"""Weights that share one scale, where the config does not say: mlx's own default."""

HALF_PRECISION_BYTES = 2


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Bytes. `file_bytes` are on disk, `weight_bytes` in memory.

    A row of text models takes `kv_bytes_per_token` for each token it holds and, for each of its last `window_tokens`,
    `window_bytes_per_token` more (layers with a sliding window). What layers hold as a state of fixed size is left out.
    """

    file_bytes: int
    weight_bytes: int
    kv_bytes_per_token: int = 0
    window_bytes_per_token: int = 0
    window_tokens: int = 0

    def kv_bytes(self, tokens: int) -> int:
        """Of one row that holds so many tokens."""
        return self.kv_bytes_per_token * tokens + self.window_bytes_per_token * min(tokens, self.window_tokens)


def estimate_model(folder: Path, dtype_bytes: int | None) -> ModelSize:
    """What the model in `folder` takes when its weights are expanded to numbers of `dtype_bytes` each, quantised ones
    too, or kept as they are (None).

    Raises `ModelFilesInvalid` when files are missing, cut short or not understood.
    """
    config, tensors, file_bytes = read_folder(folder)
    if config.get("model_type") in ENCODERS:
        used = {name: tensor for name, tensor in tensors.items() if _encodes(name, config)}
        return ModelSize(file_bytes, _weight_bytes(used, {}, dtype_bytes))
    used = generating(tensors, config)
    weight_bytes = _weight_bytes(used, quantization_of(config), dtype_bytes)
    growing, window = _cached_layers(_text(config))
    per_layer = _cached_numbers(_text(config)) * (dtype_bytes or _number_bytes(used))
    window_tokens = _count(_text(config), "sliding_window") if window else 0
    return ModelSize(file_bytes, weight_bytes, growing * per_layer, window * per_layer, window_tokens)


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, StoredTensor], int]:
    """The config, the tensors of all weight files, and the bytes of these files. Raises `ModelFilesInvalid`."""
    return (_read_json(folder / "config.json"), *_tensors(folder))


def generating(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Those that mlx-lm loads of a model that generates text."""
    tied = config.get("tie_word_embeddings", _text(config).get("tie_word_embeddings", False)) is True
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not NOT_LOADED.fullmatch(name) and not (tied and TIED_HEAD.fullmatch(name))
    }


def _tensors(folder: Path) -> tuple[dict[str, StoredTensor], int]:
    """Those of all files that are loaded, and the bytes of these files."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ModelFilesInvalid(folder, "there are no weights: no file is named model*.safetensors")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        parts = _read_json(index).get("weight_map")
        named = {str(name) for name in parts.values()} if isinstance(parts, dict) else set()
        if missing := sorted(named - {file.name for file in files}):
            raise ModelFilesInvalid(folder, f"{len(missing)} of {len(named)} weight files are missing: {missing[0]}")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors |= read_safetensors_header(file)
    return tensors, sum(file.stat().st_size for file in files)


def _encodes(name: str, config: Mapping[str, Any]) -> bool:
    if POOLER.fullmatch(name):  # only BERT's scores come from there
        kinds = config.get("architectures") or ()
        scores = any(str(kind).endswith("ForSequenceClassification") for kind in kinds)
        return scores and config["model_type"] == "bert"
    return not NOT_ENCODING.fullmatch(name)


# --- weights -----------------------------------------------------------------------------------------


def _weight_bytes(tensors: Mapping[str, StoredTensor], quantization: Mapping[str, Any], dtype_bytes: int | None) -> int:
    return sum(_loaded_bytes(name, tensors, quantization, dtype_bytes) for name in tensors)


def _loaded_bytes(
    name: str, tensors: Mapping[str, StoredTensor], quantization: Mapping[str, Any], dtype_bytes: int | None
) -> int:
    """Of one tensor, in memory."""
    tensor = tensors[name]
    if name.endswith("_scale_inv"):  # goes into its eight-bit weights, which mlx-lm expands in any case
        return 0
    if f"{name}_scale_inv" in tensors:
        return tensor.elements * (dtype_bytes or HALF_PRECISION_BYTES)
    if dtype_bytes is None:
        return tensor.size_bytes
    path, _, kind = name.rpartition(".")
    scales = tensors.get(f"{path}.scales")
    if scales is not None and kind == "weight" and tensor.shape and scales.shape:
        rows = tensor.elements // max(1, tensor.shape[-1])
        return rows * scales.shape[-1] * group_size(path, scales, quantization) * dtype_bytes
    if scales is not None and kind in ("scales", "biases"):
        return 0
    return tensor.elements * dtype_bytes if tensor.floating else tensor.size_bytes


def group_size(path: str, scales: StoredTensor, quantization: Mapping[str, Any]) -> int:
    """How many weights share a scale."""
    own = quantization.get(path)
    stated = own if isinstance(own, dict) else quantization
    if scales.type == "U8":
        return BLOCK_ELEMENTS.get(str(stated.get("mode")), BLOCK_ELEMENTS["mxfp4"])
    return _count(stated, "group_size") or DEFAULT_GROUP


def quantization_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    stated = config.get("quantization") or config.get("quantization_config")
    return stated if isinstance(stated, dict) else {}


# --- keys and values ---------------------------------------------------------------------------------


def _cached_numbers(config: Mapping[str, Any]) -> int:
    """That one layer keeps of a token: a key and a value of each head, or what both are made from (DeepSeek's MLA)."""
    if latent := _count(config, "kv_lora_rank"):
        return latent + _count(config, "qk_rope_head_dim")
    heads = _count(config, "num_attention_heads")
    if not heads:
        return 0
    width = _count(config, "head_dim") or _count(config, "hidden_size") // heads
    return 2 * (_count(config, "num_key_value_heads") or heads) * width


def _cached_layers(config: Mapping[str, Any]) -> tuple[int, int]:
    """Layers that keep every token, and those that keep a window."""
    layers = _count(config, "num_hidden_layers")
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        return kinds.count("full_attention"), kinds.count("sliding_attention")
    if every := _count(config, "sliding_window_pattern"):
        return layers // every, layers - layers // every
    return layers // max(1, _count(config, "full_attention_interval")), 0


def _number_bytes(tensors: Mapping[str, StoredTensor]) -> int:
    """Of the numbers the model computes with: those most of its tensors have."""
    kinds = Counter(TYPE_BYTES[tensor.type] for tensor in tensors.values() if tensor.floating)
    return kinds.most_common(1)[0][0] if kinds else HALF_PRECISION_BYTES


# --- config ------------------------------------------------------------------------------------------


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part on the language model, of a config that has several."""
    part = config.get("text_config")
    return part if isinstance(part, dict) else config


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) and value > 0 else 0


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelFilesInvalid(file, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFilesInvalid(file, f"is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFilesInvalid(file, "is not a JSON object")
    return content
