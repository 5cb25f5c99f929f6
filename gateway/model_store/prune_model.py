"""Leaves out the layers of a model that matter least for foretelling a fixed text.

The weights that stay are copied as they are, quantised ones too. Without further training answers get worse with every
layer. Imports mlx: `optimise_main` runs it in a process of its own.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store.manifest import Optimisation
from gateway.model_store.optimise_model import (
    SPACE_FOR_THE_REST,
    copy_texts,
    mlx_errors_explained,
    refuse_code,
    write_weights,
)
from gateway.model_store.perplexity import free_bytes, load_measurable, perplexity
from gateway.model_store.pruning import LAYERS_ALIKE, Pruning, config_after, name_after
from gateway.model_store.quantization_plan import bytes_in_memory, layer_count, stored_bytes
from gateway.model_store.store_folders import Report, require_space
from gateway.model_store.weight_shapes import read_weights

RANKING_WINDOWS = 2
"""Of the text, by which layers are compared; the whole text is for what is left in the end."""

TOLERANCE = 1e-3


def prune_folder(
    source: Path, destination: Path, pruning: Pruning, dtype: mx.Dtype | None, report: Report
) -> Optimisation:
    """Write the smaller model into the folder `destination`, which holds nothing yet.

    One layer after the other goes, each time the one whose absence costs least; to find it takes a short forward pass
    for each layer there is. Raises `ModelFilesInvalid` for a model that cannot do without layers, `ModelStoreError`
    when the disk or the memory is too small, or too many shall go.
    """
    report(0.0, "reading the headers of the weights")
    refuse_code(source)
    kind = json.loads((source / "config.json").read_bytes()).get("model_type")
    if kind not in LAYERS_ALIKE:
        raise ModelStoreError(
            f"{source}: of a {kind} no layers can be left out, only of these architectures: {', '.join(LAYERS_ALIKE)}."
        )
    weights = read_weights(source)
    layers = layer_count(weights)
    if not 0 < pruning.layers <= layers // 2:
        raise ModelStoreError(
            f"{source}: {pruning.layers} of its {layers} layers cannot go. Ask for 1 to {layers // 2}."
        )
    needed = bytes_in_memory(weights, None, dtype.size if dtype else None)
    if needed > (free := free_bytes()):
        raise ModelStoreError(f"{source}: to try it without layers takes {needed} bytes of memory; {free} are free.")
    before_bytes = stored_bytes(weights, None)
    require_space(destination, before_bytes + SPACE_FOR_THE_REST)
    with mlx_errors_explained(source):
        report(0.02, "measuring the model as it is")
        model, tokenizer = load_measurable(source, dtype)
        before = perplexity(model, tokenizer)
        removed, cut = _without_least_important(source, model, tokenizer, pruning.layers, report)
        report(0.85, "writing the layers that stay")
        bytes_after = _write(source, destination, removed)
        copy_texts(source, destination)
        report(0.9, "measuring the pruned model")
        after = perplexity(*load_measurable(destination, dtype))
    if abs(after - cut) > TOLERANCE * cut:
        raise ModelFilesInvalid(source, "what its layers do depends on their number, so none of them can go")
    left = read_weights(destination)
    return Optimisation(
        recipe=str(pruning),
        bits_per_weight=round(8 * stored_bytes(left, None) / sum(weight.elements for weight in left), 3),
        bytes_before=before_bytes,
        bytes_after=bytes_after,
        perplexity_before=before,
        perplexity_after=after,
        removed_layers=removed,
    )


def _without_least_important(
    source: Path, model: Any, tokenizer: Any, count: int, report: Report
) -> tuple[list[int], float]:
    """The numbers of the layers that go, and the perplexity of the model, which has lost them by then."""
    owner = next((m for _, m in model.named_modules() if isinstance(m.get("layers"), list)), None)
    if owner is None or owner["layers"] is not model.layers:
        raise ModelFilesInvalid(source, "it does not keep its layers in one list, so none of them can be left out")
    left = list(enumerate(owner["layers"]))
    trials, done = sum(len(left) - gone for gone in range(count)), 0
    for _ in range(count):
        costs = []
        for number, _layer in left:
            owner["layers"] = [layer for other, layer in left if other != number]
            costs.append((perplexity(model, tokenizer, RANKING_WINDOWS), number))
            done += 1
            report(0.1 + 0.7 * done / trials, f"trying the model without one of {len(left)} layers")
        least = min(costs)[1]
        left = [entry for entry in left if entry[0] != least]
    owner["layers"] = [layer for _, layer in left]
    stay = {number for number, _ in left}
    removed = [number for number in range(len(stay) + count) if number not in stay]
    return removed, perplexity(model, tokenizer)


def _write(source: Path, destination: Path, removed: list[int]) -> int:
    arrays: dict[str, mx.array] = {}
    for file in sorted(source.glob("model*.safetensors")):
        loaded: Any = mx.load(str(file))
        arrays |= {new: array for old, array in loaded.items() if (new := name_after(old, removed)) is not None}
    config = json.loads((source / "config.json").read_bytes())
    changed = config_after(config, removed)
    (destination / "config.json").write_text(json.dumps(changed, indent=4), encoding="utf-8")
    return write_weights(arrays, destination, lambda _fraction: None)
