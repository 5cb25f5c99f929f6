"""What a model's weights take under each recipe, and which recipe suits the memory there is. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.model_store.quantization_recipe import LAYER_NUMBER, Recipe, read_recipe
from gateway.model_store.weight_shapes import Weight

WEIGHTS_SHARE = 0.75
"""Of the memory budget; the rest is for keys and values, prefixes and work space."""

RECIPES = tuple(map(read_recipe, ("8", "6", "5", "mixed_4_6", "4", "mixed_3_6", "mixed_3_4", "3", "mixed_2_6", "2")))
"""What `auto` chooses from."""


@dataclass(frozen=True, slots=True)
class WeightRoom:
    """`budget_bytes` for all that models need; a backend with `expanded_bytes` expands every weight to such numbers.

    So does the CPU backend (4 bytes, float32), unless `hardware.dtype` says otherwise. `None` keeps them as they are.
    """

    budget_bytes: int
    expanded_bytes: int | None = None

    @property
    def weight_bytes(self) -> int:
        """What one model's weights may take."""
        return int(WEIGHTS_SHARE * self.budget_bytes)


@dataclass(frozen=True, slots=True)
class Choice:
    """`recipe` None keeps the model as it is. `reason` is for the log, with the numbers."""

    recipe: Recipe | None
    fits: bool
    reason: str


def stored_bytes(weights: Sequence[Weight], recipe: Recipe | None) -> int:
    """The weights on disk, and in memory where the backend keeps them as they are. None: as the model is now."""
    if recipe is None:
        return sum(weight.stored_bytes for weight in weights)
    layers = layer_count(weights)
    return sum(_quantized_bytes(weight, recipe, layers) for weight in weights)


def bytes_in_memory(weights: Sequence[Weight], recipe: Recipe | None, expanded_bytes: int | None) -> int:
    """The weights once they are loaded; see `WeightRoom`."""
    if expanded_bytes is None:
        return stored_bytes(weights, recipe)
    return sum(weight.elements for weight in weights) * expanded_bytes


def best_fitting(weights: Sequence[Weight], room: WeightRoom) -> Choice:
    """What `quantize = "auto"` means: the model as it is if that fits, else the most precise recipe that does.

    If none does, the smallest, and the choice says so. A backend that expands weights is served best by the model as it
    is: there a quantised one needs the same memory and answers worse.
    """
    allowed = room.weight_bytes
    as_it_is = bytes_in_memory(weights, None, room.expanded_bytes)
    limit = f"{WEIGHTS_SHARE:.0%} of the memory budget, {_gigabytes(allowed)}"
    if as_it_is <= allowed:
        return Choice(None, True, f"as it is, it takes {_gigabytes(as_it_is)} of {limit}")
    if room.expanded_bytes is not None:
        return Choice(
            None,
            False,
            f"it takes {_gigabytes(as_it_is)} and {limit}, and this backend expands all weights to "
            f"{8 * room.expanded_bytes} bits, so quantising it would save nothing",
        )
    modules = [weight.module for weight in weights]
    smaller = [r for r in RECIPES if r.suits(modules) and stored_bytes(weights, r) < as_it_is]
    smaller.sort(key=lambda recipe: stored_bytes(weights, recipe), reverse=True)
    for recipe in smaller:
        needed = stored_bytes(weights, recipe)
        if needed <= allowed:
            return Choice(
                recipe, True, f"{recipe} takes {_gigabytes(needed)} of {limit}, {_gigabytes(as_it_is)} as it is"
            )
    smallest = smaller[-1] if smaller else None
    needed = stored_bytes(weights, smallest)
    return Choice(smallest, False, f"even {smallest or 'as it is'} takes {_gigabytes(needed)}, more than {limit}")


def layer_count(weights: Sequence[Weight]) -> int:
    """From the numbers in the modules' paths; 0 for a model without layers."""
    numbers = (LAYER_NUMBER.search(weight.module) for weight in weights)
    return max((int(number[1]) + 1 for number in numbers if number), default=0)


def is_quantizable(weight: Weight, group_size: int) -> bool:
    """Whether mlx-lm would: a matrix, or one per expert, whose rows divide into groups."""
    return len(weight.shape) in (2, 3) and weight.shape[-1] % group_size == 0


def _quantized_bytes(weight: Weight, recipe: Recipe, layers: int) -> int:
    if not is_quantizable(weight, recipe.group_size):
        return weight.elements * weight.number_bytes
    levels = weight.elements * recipe.bits_of(weight.module, layers) // 8
    return levels + 2 * weight.number_bytes * weight.elements // recipe.group_size


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
