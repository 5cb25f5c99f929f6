"""What a recipe is, what it costs, and which one `auto` takes: values in, values out."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.convert import mixed_quant_predicate_builder

from gateway.errors import ModelStoreError
from gateway.model_store.quantization_plan import (
    RECIPES,
    WEIGHTS_SHARE,
    WeightRoom,
    best_fitting,
    bytes_in_memory,
    layer_count,
    stored_bytes,
)
from gateway.model_store.quantization_recipe import BITS, GROUP_SIZES, MIXED, Recipe, read_recipe
from gateway.model_store.weight_shapes import Weight, read_weights

WIDTH = 512


def weights_of(layers: int, number_bytes: int = 2) -> list[Weight]:
    """A llama's, roughly."""
    matrices = [
        Weight(f"model.layers.{layer}.{part}", (WIDTH, WIDTH), WIDTH * WIDTH * number_bytes, number_bytes)
        for layer in range(layers)
        for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
    ]
    return [*matrices, Weight("model.norm", (WIDTH,), WIDTH * number_bytes, number_bytes)]


@pytest.mark.parametrize("text", [*map(str, BITS), *MIXED, *(f"4:{size}" for size in GROUP_SIZES), "mixed_3_6:32"])
def test_a_recipe_is_read_and_written_alike(text: str) -> None:
    recipe = read_recipe(text)
    assert read_recipe(str(recipe)) == recipe
    assert str(recipe).startswith(text)


@pytest.mark.parametrize(
    "text", ["7", "1", "16", "4:48", "mixed_5_9", "four", "", "4:", ":64", "4:64:64", "-4", "auto"]
)
def test_what_is_no_recipe_is_told_with_all_that_are(text: str) -> None:
    with pytest.raises(ModelStoreError, match=r"2, 3, 4, 5, 6, 8 bits or one of mixed_2_6.*32, 64, 128"):
        read_recipe(text)


@pytest.mark.parametrize(
    ("text", "suffix"),
    [("4", "4bit"), ("4:32", "4bit-g32"), ("mixed_3_6", "mixed_3_6"), ("mixed_3_6:128", "mixed_3_6-g128")],
)
def test_the_name_of_what_is_made_says_how(text: str, suffix: str) -> None:
    assert read_recipe(text).suffix == suffix


class _Paths:
    """As much of a model as mlx-lm's rule looks at."""

    def __init__(self, layers: int, paths: list[str]) -> None:
        self.layers = [None] * layers
        self._paths = paths

    def named_modules(self) -> list[tuple[str, None]]:
        return [(path, None) for path in self._paths]


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("layers", [1, 2, 7, 8, 30, 64])
def test_mixed_recipes_are_mlx_lms(name: str, layers: int) -> None:
    parts = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.kv_a_proj", "mlp.down_proj", "mlp.up_proj")
    paths = [f"model.layers.{layer}.{part}" for layer in range(layers) for part in parts]
    paths += ["model.embed_tokens", "lm_head"]
    upstream: Any = mixed_quant_predicate_builder(name, _Paths(layers, paths), 64)
    assert [read_recipe(name).bits_of(path, layers) for path in paths] == [
        upstream(path, None)["bits"] for path in paths
    ]


@given(
    layers=st.integers(1, 40),
    number_bytes=st.sampled_from([2, 4]),
    budget=st.integers(0, 200_000_000),
)
def test_auto_takes_the_most_precise_that_fits(layers: int, number_bytes: int, budget: int) -> None:
    weights, room = weights_of(layers, number_bytes), WeightRoom(budget)
    choice = best_fitting(weights, room)
    needed = bytes_in_memory(weights, choice.recipe, None)
    assert choice.fits == (needed <= WEIGHTS_SHARE * budget)
    assert f"{needed / 1e9:.2f} GB" in choice.reason
    for recipe in (None, *RECIPES):
        larger = stored_bytes(weights, recipe) > needed
        if choice.fits and larger:
            assert stored_bytes(weights, recipe) > room.weight_bytes
        if not choice.fits:
            assert stored_bytes(weights, recipe) >= needed


def test_the_best_come_first() -> None:
    weights = weights_of(24)
    sizes = [stored_bytes(weights, recipe) for recipe in (None, *RECIPES)]
    assert sizes == sorted(sizes, reverse=True)  # which those of a model with few layers are not


def test_auto_quantises_nothing_where_weights_are_expanded() -> None:
    weights = weights_of(8)
    elements = sum(weight.elements for weight in weights)
    enough, scarce = WeightRoom(int(4 * elements / WEIGHTS_SHARE) + 4, 4), WeightRoom(elements, 4)

    assert best_fitting(weights, enough).recipe is None
    assert best_fitting(weights, enough).fits
    choice = best_fitting(weights, scarce)
    assert (choice.recipe, choice.fits) == (None, False)
    assert "expands all weights to 32 bits" in choice.reason


def test_auto_needs_no_recipe_that_knows_the_layers_by_other_names() -> None:
    weights = [Weight(f"h.{layer}.c_proj", (WIDTH, WIDTH), 2 * WIDTH * WIDTH, 2) for layer in range(9)]
    for share in range(1, 100):
        choice = best_fitting(weights, WeightRoom(stored_bytes(weights, None) * share // 100))
        assert choice.recipe is None or not choice.recipe.is_mixed


def test_rows_that_do_not_divide_stay_as_they_are() -> None:
    odd = Weight("model.layers.0.mlp.up_proj", (10, 100), 2000, 2)
    assert stored_bytes([odd], Recipe(4)) == 2000
    assert layer_count([odd]) == 1


def test_a_quantised_model_s_weights_count_with_what_they_stand_for(demo_folder: Path) -> None:
    weights = read_weights(demo_folder)
    assert sum(weight.elements for weight in weights) == 134_515_008  # what SmolLM2-135M has
    assert layer_count(weights) == 30
    assert {weight.quantized_bits for weight in weights} >= {0, 8}
