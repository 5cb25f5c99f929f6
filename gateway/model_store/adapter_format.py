"""Reads what a LoRA adapter's folder says, in mlx-lm's format or in PEFT's. No tensor is read, nothing is executed.

mlx-lm (`mlx_lm/tuner/utils.py`): `adapter_config.json` with `lora_parameters.scale`, and `adapters.safetensors` with
`<module>.lora_a` (inputs, rank) and `<module>.lora_b` (rank, outputs).

PEFT (`peft/tuners/lora`): `adapter_config.json` with `r`, `lora_alpha` and more, and `adapter_model.safetensors` with
`base_model.model.<module>.lora_A.weight` (rank, inputs) and `base_model.model.<module>.lora_B.weight` (outputs, rank).
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from gateway.errors import ModelFilesInvalid
from gateway.generation.adapter import LowRankUpdate

CONFIG_NAME = "adapter_config.json"
MLX_WEIGHTS = "adapters.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."

BYTES_OF_TYPES = {"F32": 4, "F16": 2, "BF16": 2}
MOST_HEADER_BYTES = 100 * 2**20
"""The format's own limit."""
PLAIN_PATTERN = re.compile(r"[\w.]+")


def weights_file(folder: Path) -> Path:
    """Raises `ModelFilesInvalid` for a folder that holds no adapter's weights."""
    for name in (MLX_WEIGHTS, PEFT_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    reason = f"there is neither {MLX_WEIGHTS} (mlx-lm) nor {PEFT_WEIGHTS} (PEFT)"
    if any(folder.glob("adapter_model.*")):
        reason += "; weights in a pickle are not read: save the adapter with safe_serialization=True"
    raise ModelFilesInvalid(folder, reason)


def read_updates(folder: Path) -> tuple[LowRankUpdate, ...]:
    """What the adapter adds to which layers. Raises `ModelFilesInvalid` that names what cannot be served."""
    config = _read_config(folder / CONFIG_NAME)
    weights = weights_file(folder)
    shapes = _read_shapes(weights)
    try:
        peft = weights.name == PEFT_WEIGHTS
        updates = _peft_updates(config, shapes) if peft else _mlx_updates(config, shapes)
    except ValueError as error:
        raise ModelFilesInvalid(folder, str(error)) from error
    if not updates:
        raise ModelFilesInvalid(weights, "it holds no low-rank products")
    return updates


def _mlx_updates(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[LowRankUpdate, ...]:
    """Raises ValueError that says what is wrong."""
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise ValueError(f"its fine_tune_type is {kind!r}; only 'lora' can share its base with others")
    parameters = config.get("lora_parameters")
    scale = _number((parameters if isinstance(parameters, dict) else {}).get("scale"), "lora_parameters.scale")
    return _updates(shapes, ".lora_a", ".lora_b", lambda module, _: (module, scale), transposed=False)


def _peft_updates(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[LowRankUpdate, ...]:
    """Raises ValueError that says what is wrong."""
    if config.get("peft_type") != "LORA":
        raise ValueError(f"its peft_type is {config.get('peft_type')!r}; only 'LORA' can be served")
    for name in ("use_dora", "fan_in_fan_out", "modules_to_save", "lora_bias", "use_qalora", "trainable_token_indices"):
        if config.get(name):
            raise ValueError(f"{name} is {config[name]!r}, which cannot be served beside other adapters")
    if config.get("bias", "none") != "none":
        raise ValueError(f"its bias is {config['bias']!r}; only 'none' can share its base with others")
    alpha = _number(config.get("lora_alpha"), "lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(PLAIN_PATTERN.fullmatch(key) for key in patterns):
        raise ValueError("alpha_pattern holds more than plain names of modules, and expressions are not evaluated")
    named = {key: _number(value, "alpha_pattern") for key, value in patterns.items()}

    def placed(name: str, rank: int) -> tuple[str, float]:
        module = name.removeprefix(PEFT_PREFIX)
        own = next((value for key, value in named.items() if f".{module}".endswith(f".{key}")), alpha)
        return module, own / (math.sqrt(rank) if config.get("use_rslora") else rank)

    return _updates(shapes, ".lora_A.weight", ".lora_B.weight", placed, transposed=True)


def _updates(
    shapes: Mapping[str, tuple[int, ...]],
    down_ending: str,
    up_ending: str,
    placed: Callable[[str, int], tuple[str, float]],
    *,
    transposed: bool,
) -> tuple[LowRankUpdate, ...]:
    """Pairs the tensors. `placed` gives a module's path and scale by its name in the file and its rank."""
    names = [name.removesuffix(down_ending) for name in shapes if name.endswith(down_ending)]
    known = {name + ending for name in names for ending in (down_ending, up_ending)}
    if strange := sorted(set(shapes) - known):
        raise ValueError(
            f"{strange[0]!r} is no part of a plain low-rank product of a linear layer ({len(strange)} such tensors); "
            "DoRA, embeddings and trained biases cannot be served beside other adapters"
        )
    updates = []
    for name in sorted(names):
        down, up = name + down_ending, name + up_ending
        if up not in shapes:
            raise ValueError(f"there is {down!r} but no {up!r}")
        (inputs, rank), (up_rank, outputs) = (_matrix(tensor, shapes[tensor], transposed) for tensor in (down, up))
        if rank != up_rank:
            raise ValueError(f"{down!r} has rank {rank}, {up!r} has {up_rank}")
        module, scale = placed(name, rank)
        updates.append(LowRankUpdate(module, inputs, outputs, rank, scale, down, up, transposed))
    return tuple(updates)


def _matrix(name: str, shape: tuple[int, ...], transposed: bool) -> tuple[int, int]:
    if len(shape) != 2 or not all(shape):
        raise ValueError(f"{name!r} has the shape {shape}; only linear layers can have adapters here")
    return (shape[1], shape[0]) if transposed else (shape[0], shape[1])


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{CONFIG_NAME} states no number as {name}")
    return float(value)


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelFilesInvalid(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFilesInvalid(path, f"is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelFilesInvalid(path, f"holds a {type(config).__name__}, not an object")
    return config


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """From the header of a safetensors file, once every tensor is known to lie within the file."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MOST_HEADER_BYTES, size - 8):
                raise ValueError(f"its header would have {length} of the file's {size} bytes")
            header = json.loads(file.read(length))
        return {name: _shape(name, entry, size - 8 - length) for name, entry in header.items() if name[:2] != "__"}
    except OSError as error:
        raise ModelFilesInvalid(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFilesInvalid(path, f"is no sound safetensors file: {error}") from error


def _shape(name: str, entry: Mapping[str, Any], data_bytes: int) -> tuple[int, ...]:
    shape = tuple(int(length) for length in entry["shape"])
    if entry["dtype"] not in BYTES_OF_TYPES:
        raise ValueError(f"{name!r} is of type {entry['dtype']}; adapters are {', '.join(BYTES_OF_TYPES)}")
    start, end = entry["data_offsets"]
    if min(shape, default=1) < 0 or not 0 <= start <= end <= data_bytes:
        raise ValueError(f"{name!r} reaches beyond the file's end")
    if end - start != prod(shape) * BYTES_OF_TYPES[entry["dtype"]]:
        raise ValueError(f"{name!r} has {end - start} bytes, which do not make the shape {shape}")
    return shape
