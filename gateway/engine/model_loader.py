"""From a model folder to a model in memory. Runs on the MLX thread.

A folder is data: safetensors, JSON and a sandboxed template. A config that asks to execute a file of the folder
is refused.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
from mlx.utils import tree_flatten

from gateway.engine.text_limit import longest_token_bytes
from gateway.errors import ModelFilesInvalid, UntrustedModel

UNSTATED_CONTEXT_TOKENS = 4096
"""The context of a model whose config names none."""


@dataclass(frozen=True, slots=True)
class TextSide:
    """What is needed to understand a request before the weights are there.

    `template` is the text of the chat template, of several the one for tools. `tokenizer` is an mlx-lm
    `TokenizerWrapper`; generation ends at one of `end_tokens`. Token ids are below `vocabulary`: a tokenizer may have
    more than its model. No token stands for more than `longest_token_bytes` of text. `architecture` is what the config
    calls the model's type; its weights have `quantization_bits` each, 0 if they are not quantised.
    """

    tokenizer: Any
    template: str
    vocabulary: int
    longest_token_bytes: int
    context_tokens: int
    end_tokens: frozenset[int]
    architecture: str = ""
    quantization_bits: int = 0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`vocabulary` is the width of the logits, which may exceed the tokenizer's."""

    model: Any
    vocabulary: int
    weight_bytes: int


def load_text_side(folder: Path) -> TextSide:
    """Reads the tokenizer and the limits. Raises `ModelStoreError` if the folder is unfit."""
    config = _read_config(folder)
    if not (folder / "tokenizer.json").exists():
        raise ModelFilesInvalid(folder, "there is no tokenizer.json; convert the model with mlx_lm.convert")
    tokenizer = mlx_lm.utils.load_tokenizer(
        folder,
        {"trust_remote_code": False, "local_files_only": True},
        eos_token_ids=config.get("eos_token_id"),
    )
    if not tokenizer.has_chat_template:
        raise ModelFilesInvalid(folder, "the tokenizer has no chat template, so the model cannot hold a conversation")
    return TextSide(
        tokenizer,
        _template_text(tokenizer),
        _vocabulary(config, tokenizer),
        longest_token_bytes(tokenizer.backend_tokenizer),
        _context_tokens(config),
        frozenset(tokenizer.eos_token_ids),
        str(config.get("model_type", "")),
        _quantization_bits(config),
    )


def _template_text(tokenizer: Any) -> str:
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        templates = templates.get("tool_use") or templates.get("default") or ""
    return templates if isinstance(templates, str) else ""


def load_model(folder: Path, dtype: mx.Dtype | None, progress: Callable[[float], None]) -> LoadedModel:
    """Loads the weights, expanded to `dtype` (quantised ones too), or as they are when it is None.

    Raises `ModelStoreError`, or what mlx-lm raises for files that are broken.
    """
    _read_config(folder)
    model, _ = mlx_lm.utils.load_model(folder, lazy=True)
    if dtype is not None:
        # Scales first: values dequantised from half-precision scales would be rounded to half precision.
        model.set_dtype(dtype)
        model = mlx_lm.utils.dequantize_model(model)
        model.eval()
    # Reading happens when weights are evaluated: layer by layer, so that progress can be told.
    for done, layer in enumerate(model.layers, start=1):
        mx.eval(layer.parameters())
        progress(done / len(model.layers))
    mx.eval(model.parameters())
    logits = model(mx.zeros((1, 1), dtype=mx.int32))  # the first pass also compiles kernels
    mx.eval(logits)
    parameters: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # type: ignore[assignment]
    weight_bytes = sum(array.nbytes for _, array in parameters)
    return LoadedModel(model, logits.shape[-1], weight_bytes)


def _read_config(folder: Path) -> dict[str, Any]:
    """The folder's config as mlx-lm reads it, once it is known to be harmless."""
    try:
        config: dict[str, Any] = mlx_lm.utils.load_config(folder)
    except (OSError, json.JSONDecodeError) as error:
        raise ModelFilesInvalid(folder, f"config.json cannot be read: {error}") from error
    if config.get("model_file") is not None:
        raise UntrustedModel(
            f"{folder}: config.json asks to execute {config['model_file']!r} from the model's folder, which the "
            "gateway never does. Use a model of an architecture that mlx-lm knows."
        )
    return config


def _vocabulary(config: dict[str, Any], tokenizer: Any) -> int:
    of_tokenizer: int = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=True)
    stated = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    return min(of_tokenizer, int(stated)) if isinstance(stated, int) and stated > 0 else of_tokenizer


def _quantization_bits(config: dict[str, Any]) -> int:
    stated = config.get("quantization")
    bits = stated.get("bits") if isinstance(stated, dict) else None
    return bits if isinstance(bits, int) else 0


def _context_tokens(config: dict[str, Any]) -> int:
    stated = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    return int(stated) if isinstance(stated, int | float) and stated > 0 else UNSTATED_CONTEXT_TOKENS
