"""How a model's weights are quantised: so many bits for each, in groups that share a scale and an offset. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.errors import ModelStoreError

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
"""What mlx has kernels for."""

MIXED = {"mixed_2_6": (2, 6), "mixed_3_4": (3, 4), "mixed_3_6": (3, 6), "mixed_4_6": (4, 6)}
"""The bits of most layers, and of those that suffer most. The names are mlx-lm's."""

RECIPE = re.compile(r"(?P<bits>\d+|mixed_\d+_\d+)(?::(?P<group>\d+))?")
LAYER_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Recipe:
    """`bits` of most weights; layers that suffer most get `high_bits`. One scale and one offset per `group_size`."""

    bits: int
    group_size: int = 64
    high_bits: int | None = None

    def __str__(self) -> str:
        """As a person writes it in the configuration."""
        return f"{self._bits_in_words}:{self.group_size}"

    @property
    def is_mixed(self) -> bool:
        return self.high_bits is not None

    @property
    def suffix(self) -> str:
        """For the name of the model that is made: `4bit`, `mixed_4_6`, `4bit-g32`."""
        name = self._bits_in_words if self.is_mixed else f"{self.bits}bit"
        return name if self.group_size == 64 else f"{name}-g{self.group_size}"

    @property
    def _bits_in_words(self) -> str:
        return f"mixed_{self.bits}_{self.high_bits}" if self.is_mixed else str(self.bits)

    def bits_of(self, module: str, layers: int) -> int:
        """Of the module with this path, in a model of so many layers.

        The rule is `mixed_quant_predicate_builder` of mlx-lm 0.32's convert.py, after llama.cpp's for Q4_K_M: value and
        down projections of the first and last eighth of the layers and of every third between, and the output.
        """
        if self.high_bits is None:
            return self.bits
        number = LAYER_NUMBER.search(module)
        index = int(number[1]) if number else 0
        eighth = layers // 8
        sensitive = index < eighth or index >= 7 * layers // 8 or (index - eighth) % 3 == 2
        value = any(part in module for part in ("v_proj", "v_a_proj", "v_b_proj"))
        raised = "lm_head" in module or (sensitive and (value or "down_proj" in module))
        return self.high_bits if raised else self.bits

    def suits(self, modules: Iterable[str]) -> bool:
        """Whether a mixed recipe knows which of the model's layers suffer most: it goes by their names."""
        return not self.is_mixed or any("down_proj" in module for module in modules)


def read_recipe(text: str) -> Recipe:
    """From `4`, `4:32`, `mixed_4_6` or `mixed_4_6:128`. Raises `ModelStoreError` that lists what there is."""
    written = RECIPE.fullmatch(text)
    if written is None:
        raise _refusal(f"{text!r} is no way to quantise a model.")
    name, group_size = written["bits"], int(written["group"] or 64)
    if group_size not in GROUP_SIZES:
        raise _refusal(f"A group of {group_size} weights is none that mlx knows.")
    if name in MIXED:
        bits, high_bits = MIXED[name]
        return Recipe(bits, group_size, high_bits)
    if not name.isdecimal() or int(name) not in BITS:
        raise _refusal(f"{name} is none of the bit widths and mixed recipes that mlx-lm knows.")
    return Recipe(int(name), group_size)


def _refusal(problem: str) -> ModelStoreError:
    return ModelStoreError(
        f"{problem} Give {', '.join(map(str, BITS))} bits or one of {', '.join(MIXED)}, if need be with a group size "
        f"of {', '.join(map(str, GROUP_SIZES))}, such as 4:64."
    )
