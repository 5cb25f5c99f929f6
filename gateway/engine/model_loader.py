"""From a model folder to a model in memory. Runs on the MLX thread, but for `load_text_side`, which any may call.

A folder is data: safetensors, JSON and a sandboxed template. A config that asks to execute a file of the folder
is refused, unless the operator has said that this model is trusted.
"""

import json
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils

from gateway.engine.sliced_work import at_once
from gateway.engine.text_limit import longest_token_bytes
from gateway.engine.weight_slices import WeightSlices, packed_weights
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


def load_text_side(folder: Path, *, trusted: bool = False) -> TextSide:
    """Reads the tokenizer and the limits; of a `trusted` model with the code it brings.

    Raises `ModelStoreError` if the folder is unfit.

    Touches no array, but imports the architecture unless `import_architecture` has.
    """
    config = _read_config(folder, trusted)
    if not (folder / "tokenizer.json").exists():
        raise ModelFilesInvalid(folder, "there is no tokenizer.json; convert the model with mlx_lm.convert")
    tokenizer = mlx_lm.utils.load_tokenizer(
        folder,
        {"trust_remote_code": trusted, "local_files_only": True},
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


def import_architecture(folder: Path, *, trusted: bool = False) -> None:
    """Imports what computes this model, so that nobody else need to. Raises `ModelStoreError` if mlx-lm knows none."""
    config = _read_config(folder, trusted)
    if "model_file" in config:
        return  # it is imported with every load
    try:
        mlx_lm.utils._get_classes(config)
    except (KeyError, ValueError) as error:
        named = str(config.get("model_type"))[:60]
        raise ModelFilesInvalid(folder, f"mlx-lm knows no architecture {named!r}, its config's model_type") from error


def load_in_slices(
    folder: Path, dtype: mx.Dtype | None, claim: Callable[[int], Iterable[float]], *, trusted: bool = False
) -> Generator[float, float | None, tuple[Any, int]]:
    """`Slices` that load the weights, expanded to `dtype` (quantised ones too), or as they are when it is None.

    Returns the model and its weights' bytes, which are claimed before any is read: by slices that may raise. Raises
    `ModelStoreError` for files that are broken. These slices cannot be cut: building the model's modules (30 layers:
    27 ms), reading one weight, and making room for one that is expanded (0.45 s a gigabyte on a CPU).
    """
    yield 0.0
    import_architecture(folder, trusted=trusted)
    try:
        model, _ = mlx_lm.utils.load_model(folder, lazy=True, trust_remote_code=trusted)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ModelFilesInvalid(folder, f"its weights are not those of its config.json: {error}") from error
    yield 0.0
    packed = {}
    if dtype is not None:
        packed = packed_weights(model)
        model = mlx_lm.utils.dequantize_model(model)
        packed = {name: packed[name] for name in packed.keys() - packed_weights(model).keys()}
        model.eval()
    weights = WeightSlices(model, packed, dtype)
    del packed  # what is expanded need not stay
    yield from claim(weights.nbytes)
    try:
        yield from weights.evaluate()
    except RuntimeError as error:
        raise ModelFilesInvalid(folder, f"its weights cannot be read: {error}") from error
    return model, weights.nbytes


def load_model(folder: Path, dtype: mx.Dtype | None, progress: Callable[[float], None]) -> LoadedModel:
    """`load_in_slices`, all at once, and a first pass."""
    model, weight_bytes = at_once(load_in_slices(folder, dtype, lambda _: ()), progress)
    logits = model(mx.zeros((1, 1), dtype=mx.int32))
    mx.eval(logits)
    return LoadedModel(model, logits.shape[-1], weight_bytes)


def _read_config(folder: Path, trusted: bool) -> dict[str, Any]:
    """The folder's config as mlx-lm reads it, once it is known to be harmless or trusted."""
    try:
        config: dict[str, Any] = mlx_lm.utils.load_config(folder)
    except (OSError, json.JSONDecodeError) as error:
        raise ModelFilesInvalid(folder, f"config.json cannot be read: {error}") from error
    if (file := config.get("model_file")) is not None:
        if not trusted:
            raise UntrustedModel(
                f"{folder}: config.json asks to execute {file!r} from the model's folder. Use a model of an "
                "architecture that mlx-lm knows; or read that file, and if it may run with all your rights, set "
                "trusted = true for this model in the configuration."
            )
        if not isinstance(file, str) or not (folder / file).resolve().is_relative_to(folder.resolve()):
            raise UntrustedModel(f"{folder}: config.json asks to execute {file!r}, which is not in the model's folder.")
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
