"""Leaving out layers of real folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from gateway.cli import main
from gateway.errors import ModelStoreError
from gateway.model_store.perplexity import load_measurable, measured_perplexity, perplexity
from gateway.model_store.prune_model import RANKING_WINDOWS
from gateway.model_store.pruning import Pruning, config_after, name_after, read_pruning
from gateway.model_store.quantization_recipe import read_recipe
from gateway.model_store.store import ModelStore

pytestmark = pytest.mark.slow

Report = Callable[[float, str], None]
LAYERS = 4


@pytest.fixture
def four_layers(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with both of its layers twice, not quite alike."""
    folder = tmp_path / "four"
    shutil.copytree(tiny_folder, folder)
    loaded: Any = mx.load(str(folder / "model.safetensors"))
    arrays = dict(loaded)
    for name, array in list(arrays.items()):
        if ".layers." in name:
            number = int(name.split(".layers.")[1].split(".")[0])
            copy = name.replace(f".layers.{number}.", f".layers.{number + 2}.")
            arrays[copy] = array * 1.1
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "mlx"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS}))
    return folder


def logits_of(folder: Path) -> Any:
    model, _ = load_model(folder)
    return np.array(model(mx.array([[5, 300, 7, 4000, 11]]))[0])


def test_the_layer_goes_whose_absence_costs_least(four_layers: Path, root: Path, silent: Report) -> None:
    store = ModelStore(root)
    original = store.locate(str(four_layers), silent)

    pruned = store.optimised(original, Pruning(1), silent)

    assert pruned.model_id == "four-pruned1"
    assert pruned.manifest
    done = pruned.manifest.optimisation
    assert done
    assert len(done.removed_layers) == 1
    assert done.bytes_after < done.bytes_before
    assert done.perplexity_after == measured_perplexity(pruned.folder, mx.float32, 0)
    assert len(load_model(pruned.folder)[0].layers) == LAYERS - 1
    without_each = [perplexity_without(four_layers, root / f"without{number}", number) for number in range(LAYERS)]
    assert without_each[done.removed_layers[0]] == min(without_each)


def perplexity_without(folder: Path, copy: Path, number: int) -> float:
    """Of the model when this layer adds nothing to what passes through it."""
    shutil.copytree(folder, copy)
    loaded: Any = mx.load(str(folder / "model.safetensors"))
    idle = (f".layers.{number}.self_attn.o_proj.", f".layers.{number}.mlp.down_proj.")
    arrays = {
        name: mx.zeros_like(array) if any(part in name for part in idle) else array for name, array in loaded.items()
    }
    mx.save_safetensors(str(copy / "model.safetensors"), arrays, metadata={"format": "mlx"})
    return perplexity(*load_measurable(copy, mx.float32), RANKING_WINDOWS)


def test_what_stays_of_a_quantised_model_stays_as_it_is(four_layers: Path, root: Path, silent: Report) -> None:
    store = ModelStore(root)
    original = store.locate(str(four_layers), silent)
    quantised = store.optimised(original, read_recipe("mixed_2_6"), silent)

    pruned = store.optimised(quantised, Pruning(2), silent, "small")

    assert pruned.manifest
    assert pruned.manifest.optimisation
    removed = pruned.manifest.optimisation.removed_layers
    before: Any = mx.load(str(quantised.folder / "model.safetensors"))
    after: Any = mx.load(str(pruned.folder / "model.safetensors"))
    kept = {new: array for old, array in before.items() if (new := name_after(old, removed))}
    assert set(kept) == set(after)
    assert all(mx.array_equal(kept[name], after[name]) for name in kept)
    assert np.isfinite(logits_of(pruned.folder)).all()


@pytest.mark.parametrize("layers", [0, 3, 100])
def test_too_many_cannot_go(layers: int, four_layers: Path, root: Path, silent: Report) -> None:
    store = ModelStore(root)
    original = store.locate(str(four_layers), silent)
    with pytest.raises(ModelStoreError, match=rf"{layers} of its 4 layers cannot go. Ask for 1 to 2\."):
        store.optimised(original, Pruning(layers), silent)
    assert list((root / "models").iterdir()) == []


def test_layers_that_are_something_by_their_number_cannot_go(four_layers: Path, root: Path, silent: Report) -> None:
    config = json.loads((four_layers / "config.json").read_text())
    (four_layers / "config.json").write_text(json.dumps(config | {"model_type": "gemma3_text"}))
    store = ModelStore(root)
    with pytest.raises(ModelStoreError, match=r"of a gemma3_text no layers can be left out, only of these .*llama"):
        store.optimised(store.locate(str(four_layers), silent), Pruning(1), silent)


def test_the_command_says_what_went(
    four_layers: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_GATEWAY_STORE_DIRECTORY", str(root))
    assert main(["prune", str(four_layers), "--layers", "1"]) == 0
    printed = capsys.readouterr()
    assert "without layers" in printed.out
    assert "trying the model without one of 4 layers" in printed.err


def test_names_and_settings_follow_their_layers() -> None:
    names = ["model.layers.0.a.weight", "model.layers.1.a", "layers.3", "model.layers.10.b", "model.norm.weight"]
    assert [name_after(name, [1, 3]) for name in names] == [
        *("model.layers.0.a.weight", None, None),
        *("model.layers.8.b", "model.norm.weight"),
    ]
    config = {
        "num_hidden_layers": 4,
        "layer_types": ["full", "slide", "full", "slide"],
        "quantization": {"bits": 4, "model.layers.1.a": {"bits": 6}, "model.layers.2.a": {"bits": 8}},
        "eos_token_id": [1, 2, 3, 4],
    }
    after = {
        "num_hidden_layers": 3,
        "layer_types": ["full", "full", "slide"],
        "quantization": {"bits": 4, "model.layers.1.a": {"bits": 8}},
        "eos_token_id": [1, 2, 3, 4],
    }
    assert config_after(config, [1]) == after
    assert config_after({"text_config": config}, [1]) == {"text_config": after}
    assert read_pruning(str(Pruning(3))) == Pruning(3)
    assert read_pruning("4:64") is None
