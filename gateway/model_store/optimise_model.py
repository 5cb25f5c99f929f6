"""Quantises a model folder into a new one, and measures both.

Imports mlx: `optimise_main` runs it in a process of its own.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
from mlx.utils import tree_flatten, tree_map_with_path

from gateway.errors import ModelFilesInvalid, ModelStoreError, UntrustedModel
from gateway.hardware.backend import DTYPES
from gateway.model_store.manifest import MANIFEST_NAME, Optimisation
from gateway.model_store.perplexity import measured_perplexity
from gateway.model_store.quantization_plan import bytes_in_memory, layer_count, stored_bytes
from gateway.model_store.quantization_recipe import Recipe
from gateway.model_store.store_folders import Report, require_space
from gateway.model_store.weight_shapes import Weight, read_weights

SPACE_FOR_THE_REST = 64 << 20  # bytes: the tokenizer and configuration files, at most some tens of MB
SHARD_GIB = 1
"""Of the new weights, so much at a time is in memory."""

WEIGHT_FILES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".npz"})
CODE_FILES = frozenset({".py", ".pyc", ".so", ".sh"})
WRITTEN_ANEW = frozenset({"config.json", "model.safetensors.index.json", "hf_quant_config.json", MANIFEST_NAME})


def quantize_folder(
    source: Path, destination: Path, recipe: Recipe, dtype: mx.Dtype | None, report: Report
) -> Optimisation:
    """Write the quantised model into the folder `destination`, which holds nothing yet.

    Both are measured with their weights expanded to `dtype`, unless that is None.

    Raises `ModelFilesInvalid` for a model that mlx-lm cannot load or quantise, `ModelStoreError` when the disk is too
    small. What was written by then stays for the caller to remove.
    """
    report(0.0, "reading the headers of the weights")
    weights = read_weights(source)
    _refuse_what_cannot_be(source, weights, recipe)
    require_space(destination, stored_bytes(weights, recipe) + SPACE_FOR_THE_REST)
    with mlx_errors_explained(source):
        report(0.02, "measuring the model as it is")
        before = measured_perplexity(source, dtype, _needed_bytes(weights, None, dtype))
        report(0.2, "quantising")
        model, config = _quantized(source, recipe, layer_count(weights))
        bits_per_weight = float(mlx_lm.utils.compute_bits_per_weight(model))
        arrays = dict(tree_flatten(model.parameters()))
        del model  # so that each array is given up once it is written
        bytes_after = write_weights(
            arrays, destination, lambda done: report(0.2 + 0.6 * done, f"quantising to {recipe}")
        )
        mlx_lm.utils.save_config(config, destination / "config.json")
        copy_texts(source, destination)
        report(0.8, "measuring the quantised model")
        after = measured_perplexity(destination, dtype, _needed_bytes(weights, recipe, dtype))
    report(0.99, "describing the files")
    return Optimisation(
        recipe=str(recipe),
        bits_per_weight=round(bits_per_weight, 3),
        bytes_before=stored_bytes(weights, None),
        bytes_after=bytes_after,
        perplexity_before=before,
        perplexity_after=after,
    )


def refuse_code(source: Path) -> None:
    """Raises `UntrustedModel` for a model whose config names code of its own."""
    config = json.loads((source / "config.json").read_bytes())
    if config.get("model_file") is not None:
        raise UntrustedModel(
            f"{source}: config.json asks to execute {config['model_file']!r} from the model's folder, which the "
            "gateway does not do to make another model of it. Use one of an architecture that mlx-lm knows."
        )


def _refuse_what_cannot_be(source: Path, weights: list[Weight], recipe: Recipe) -> None:
    refuse_code(source)
    before, after = stored_bytes(weights, None), stored_bytes(weights, recipe)
    if after >= before:
        raise ModelStoreError(
            f"{source}: quantised to {recipe} its weights would take {after} bytes, and they take {before} now. Ask "
            "for fewer bits, or begin with the model in full precision."
        )
    if not recipe.suits(weight.module for weight in weights):
        raise ModelStoreError(
            f"{source}: a mixed recipe goes by the names of the layers, and this model has no down_proj. Ask for a "
            f"number of bits instead, such as {recipe.bits}."
        )


def _quantized(source: Path, recipe: Recipe, layers: int) -> tuple[Any, dict[str, Any]]:
    """The model with quantised weights that are not computed yet, and the config that says so."""
    model, config = mlx_lm.utils.load_model(source, lazy=True)
    if config.pop("quantization", None) is not None:
        model = mlx_lm.utils.dequantize_model(model)
        if left := [path for path, module in model.named_modules() if "scales" in module]:
            raise ModelFilesInvalid(source, f"mlx-lm cannot undo how {left[0]} is quantised. Begin with another model.")
    config.pop("quantization_config", None)
    if dtype := DTYPES.get(config.get("torch_dtype") or config.get("dtype") or ""):
        _cast(model, dtype)
    own_rule = getattr(model, "quant_predicate", None)  # of architectures with layers that suffer more than others

    def rule(path: str, module: Any) -> bool | dict[str, Any]:
        own: bool | dict[str, Any] = own_rule(path, module) if own_rule else True
        bits = recipe.bits_of(path, layers)
        if own is not True or bits == recipe.bits:
            return own
        return {"group_size": recipe.group_size, "bits": bits, "mode": "affine"}

    model, config = mlx_lm.utils.quantize_model(model, config, recipe.group_size, recipe.bits, quant_predicate=rule)
    return model, config


def _cast(model: Any, dtype: mx.Dtype) -> None:
    """To the type that the config states, but for what the architecture keeps in another. As `mlx_lm.convert` does."""
    may_cast = getattr(model, "cast_predicate", lambda _path: True)

    def cast(path: str, array: mx.array) -> mx.array:
        return array.astype(dtype) if may_cast(path) and mx.issubdtype(array.dtype, mx.floating) else array

    model.update(tree_map_with_path(cast, model.parameters()))


def write_weights(arrays: dict[str, mx.array], destination: Path, progress: Callable[[float], None]) -> int:
    """Compute and write all `arrays`, a file of them at a time, and empty the dict; returns their bytes."""
    shards: list[dict[str, mx.array]] = mlx_lm.utils.make_shards(arrays, max_file_size_gb=SHARD_GIB)
    arrays.clear()
    total = sum(array.nbytes for shard in shards for array in shard.values())
    file_of: dict[str, str] = {}
    done = 0
    count = len(shards)
    for number in range(1, count + 1):
        shard = shards.pop(0)
        name = f"model-{number:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
        for key, array in shard.items():
            mx.eval(array)
            file_of[key] = name
            done += array.nbytes
            progress(done / total)
        _save(destination / name, shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}
    (destination / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return total


def _save(path: Path, arrays: dict[str, mx.array]) -> None:
    try:
        mx.save_safetensors(str(path), arrays, metadata={"format": "mlx"})
    except RuntimeError:
        # mlx does not say why it cannot write; the system does, when it is asked for a little more
        with path.open("ab", buffering=0) as file:
            file.write(bytes(2**20))
            os.fsync(file.fileno())
        raise


def copy_texts(source: Path, destination: Path) -> None:
    """Everything of the model but weights, code and what is written anew: tokenizer, templates, licence."""
    for file in sorted(source.iterdir()):
        other = file.suffix in WEIGHT_FILES | CODE_FILES or file.name in WRITTEN_ANEW or file.name.startswith(".")
        if file.is_file() and not other:
            shutil.copyfile(file, destination / file.name)


def _needed_bytes(weights: list[Weight], recipe: Recipe | None, dtype: mx.Dtype | None) -> int:
    return bytes_in_memory(weights, recipe, dtype.size if dtype else None)


@contextmanager
def mlx_errors_explained(source: Path) -> Iterator[None]:
    """Turns what mlx and mlx-lm raise for files that are broken or of an unknown kind into `ModelFilesInvalid`."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelFilesInvalid(source, f"mlx-lm cannot handle it: {error}") from error
