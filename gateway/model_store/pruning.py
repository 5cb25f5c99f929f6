"""Which layers of a model go, and what the rest is called. Pure."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

LAYERS_ALIKE = ("gemma", "granite", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3", "starcoder2")
"""Architectures whose layers do the same at any place, or what `layer_types` says of it. In others, such as Gemma 3,
what a layer does follows from its number: one that moves up would become another kind."""

PRUNING = re.compile(r"pruned:(\d+)")
NUMBERED = re.compile(r"^(?P<before>(?:.*\.)?layers\.)(?P<number>\d+)(?P<after>\..*)?$")
LAYER_COUNT = "num_hidden_layers"


@dataclass(frozen=True, slots=True)
class Pruning:
    """So many `layers` are left out: those without which the model foretells a text best."""

    layers: int

    def __str__(self) -> str:
        return f"pruned:{self.layers}"

    @property
    def suffix(self) -> str:
        """For the name of the model that is made."""
        return f"pruned{self.layers}"


def read_pruning(text: str) -> Pruning | None:
    """From what `str` makes of one; None for anything else."""
    written = PRUNING.fullmatch(text)
    return Pruning(int(written[1])) if written else None


def name_after(name: str, removed: Collection[int]) -> str | None:
    """What a tensor or module is called once layers are gone; None if it goes with them."""
    match = NUMBERED.match(name)
    if match is None:
        return name
    number = int(match["number"])
    if number in removed:
        return None
    return f"{match['before']}{number - sum(gone < number for gone in removed)}{match['after'] or ''}"


def config_after(config: Mapping[str, Any], removed: Collection[int]) -> dict[str, Any]:
    """The config of the model without these layers: their count, lists with an entry a layer, settings by name."""
    changed: dict[str, Any] = {}
    layers = config.get(LAYER_COUNT)
    for key, value in config.items():
        if key == LAYER_COUNT:
            changed[key] = value - len(removed)
        elif key == "layer_types" and isinstance(value, list) and len(value) == layers:
            changed[key] = [kind for number, kind in enumerate(value) if number not in removed]
        elif key == "text_config" and isinstance(value, Mapping):
            changed[key] = config_after(value, removed)
        elif key in ("quantization", "quantization_config") and isinstance(value, Mapping):
            names = {name: name_after(name, removed) for name in value}
            changed[key] = {new: value[old] for old, new in names.items() if new is not None}
        else:
            changed[key] = value
    return changed
