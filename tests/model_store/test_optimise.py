"""Quantising real folders in real child processes."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from mlx_lm.utils import load_model, load_tokenizer

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store.optimise_model import quantize_folder
from gateway.model_store.perplexity import TEXT, perplexity
from gateway.model_store.quantization_plan import WeightRoom, stored_bytes
from gateway.model_store.quantization_recipe import read_recipe
from gateway.model_store.store import ModelStore, StoredModel
from gateway.model_store.store_folders import disk_errors_explained
from gateway.model_store.weight_shapes import read_weights

pytestmark = pytest.mark.slow

Report = Callable[[float, str], None]
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Callable[[str], StoredModel]:
    """The tiny model in a recipe, made once for all tests."""
    store = ModelStore(tmp_path_factory.mktemp("optimised"))
    original = store.locate(str(tiny_folder), lambda _fraction, _doing: None)
    return lambda recipe: store.optimised(original, read_recipe(recipe), lambda _fraction, _doing: None)


def logits_of(folder: Path) -> mx.array:
    model, _ = load_model(folder)
    logits: mx.array = model(mx.array([[5, 300, 7, 4000, 11, 12, 13]]))[0]
    return logits


def relative_error(found: mx.array, expected: mx.array) -> float:
    return float(mx.sqrt(mx.sum((found - expected) ** 2) / mx.sum(expected**2)))


def bits_by_module(folder: Path) -> dict[str, int]:
    model, _ = load_model(folder, lazy=True)
    return {path: module.bits for path, module in model.named_modules() if "scales" in module}


def test_eight_bits_change_little_and_fewer_change_more(made: Callable[[str], StoredModel], tiny_folder: Path) -> None:
    expected = logits_of(tiny_folder)
    errors = [relative_error(logits_of(made(recipe).folder), expected) for recipe in ("8", "4:32", "2")]
    assert errors[0] < 0.05  # of random weights, which forgive less than trained ones
    assert errors == sorted(errors)


def test_the_manifest_says_what_was_done_and_what_it_changed(
    made: Callable[[str], StoredModel], tiny_folder: Path
) -> None:
    model = made("8")
    assert model.model_id == "tiny-8bit"
    assert model.manifest
    assert (model.manifest.source.kind, model.manifest.source.location) == ("model", "tiny")
    done = model.manifest.optimisation
    assert done
    assert done.recipe == "8:64"
    assert done.bytes_before == sum(array.nbytes for array in load_arrays(tiny_folder).values())
    assert done.bytes_after == sum(array.nbytes for array in load_arrays(model.folder).values())
    assert 8.9 < done.bits_per_weight < 9.1  # 8, and a scale and an offset of 32 bits for each 64
    assert done.perplexity_before
    assert done.perplexity_after == pytest.approx(done.perplexity_before, rel=0.02)
    assert set(model.manifest.files) >= {"config.json", "model.safetensors", "tokenizer.json"}


def load_arrays(folder: Path) -> dict[str, mx.array]:
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    return dict(arrays)


@pytest.mark.parametrize("recipe", ["8", "4:32", "2", "mixed_2_6"])
def test_the_plan_knows_the_size_beforehand(recipe: str, made: Callable[[str], StoredModel], tiny_folder: Path) -> None:
    planned = stored_bytes(read_weights(tiny_folder), read_recipe(recipe))
    assert planned == sum(array.nbytes for array in load_arrays(made(recipe).folder).values())
    assert planned == stored_bytes(read_weights(made(recipe).folder), None)


def test_a_mixed_recipe_has_layers_of_different_bits(made: Callable[[str], StoredModel]) -> None:
    bits = bits_by_module(made("mixed_2_6").folder)
    assert bits["lm_head"] == bits["model.layers.1.mlp.down_proj"] == 6
    assert bits["model.layers.1.mlp.up_proj"] == bits["model.embed_tokens"] == 2


def test_the_perplexity_is_of_the_text_as_one_would_compute_it(tiny_folder: Path) -> None:
    """Of its first two windows, by NumPy in double precision."""
    model, _ = load_model(tiny_folder)
    tokenizer = load_tokenizer(tiny_folder)
    tokens = tokenizer.encode(TEXT.read_text(encoding="utf-8"))
    assert 500 < len(tokens) < 1000
    logarithms = []
    for window in (tokens[:128], tokens[128:256]):
        logits = np.array(model(mx.array([window]))[0]).astype(np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        logarithms += [np.log(probabilities[at, token]) for at, token in enumerate(window[1:])]
    short = _Cut(tokenizer, 256)
    assert perplexity(model, short) == pytest.approx(np.exp(-np.mean(logarithms)), rel=1e-4)


class _Cut:
    """A tokenizer that reads the beginning only."""

    def __init__(self, tokenizer: Any, tokens: int) -> None:
        self._tokenizer, self._tokens = tokenizer, tokens
        self.bos_token_id = tokenizer.bos_token_id

    def encode(self, text: str, **options: Any) -> list[int]:
        encoded: list[int] = self._tokenizer.encode(text, **options)
        return encoded[: self._tokens]


def test_it_is_found_by_its_id_and_made_once(tiny_folder: Path, root: Path, silent: Report) -> None:
    store = ModelStore(root)
    original = store.locate(str(tiny_folder), silent)
    first = store.optimised(original, read_recipe("4"), silent, "small")
    told: list[str] = []

    again = ModelStore(root).optimised(original, read_recipe("4"), lambda _fraction, doing: told.append(doing), "small")

    assert again == first
    assert told == []
    assert ModelStore(root).locate("small", silent) == first
    assert store.model_id_of("small") == "small"
    assert list((root / "incoming").iterdir()) == []


def test_another_recipe_or_another_original_is_made_anew(
    tiny_folder: Path, root: Path, tmp_path: Path, silent: Report
) -> None:
    changed = tmp_path / "tiny"
    shutil.copytree(tiny_folder, changed)
    store = ModelStore(root)
    original = store.locate(str(changed), silent)
    store.optimised(original, read_recipe("8"), silent, "small")

    four = store.optimised(original, read_recipe("4"), silent, "small")
    assert set(bits_by_module(four.folder).values()) == {4}
    arrays = load_arrays(changed)
    arrays["model.norm.weight"] = arrays["model.norm.weight"] * 2
    mx.save_safetensors(str(changed / "model.safetensors"), arrays, metadata={"format": "mlx"})
    again = store.optimised(store.locate(str(changed), silent), read_recipe("4"), silent, "small")

    assert float(load_arrays(again.folder)["model.norm.weight"][0]) == 2.0


def test_an_id_of_another_model_is_not_taken(tiny_folder: Path, root: Path, tmp_path: Path, silent: Report) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    store = ModelStore(root)
    store.optimised(store.locate(str(tiny_folder), silent), read_recipe("4"), silent, "small")

    with pytest.raises(ModelStoreError, match=r"another model called 'small'.*made from tiny"):
        store.optimised(store.locate(str(other), silent), read_recipe("4"), silent, "small")
    with pytest.raises(ModelStoreError, match=r"cannot be called 'other'"):
        store.optimised(store.locate(str(other), silent), read_recipe("4"), silent, "other")


def test_a_quantised_model_can_be_quantised_further_but_not_back(
    made: Callable[[str], StoredModel], root: Path, silent: Report, tiny_folder: Path
) -> None:
    eight = made("8")
    store = ModelStore(root)
    four = store.optimised(eight, read_recipe("4"), silent)
    assert four.model_id == "tiny-8bit-4bit"
    assert set(bits_by_module(four.folder).values()) == {4}
    assert relative_error(logits_of(four.folder), logits_of(tiny_folder)) < 0.6  # 1.4 for unrelated ones
    with pytest.raises(ModelStoreError, match=r"quantised to 8:64 its weights would take \d+ bytes, and they take"):
        store.optimised(four, read_recipe("8"), silent)


def test_auto_takes_what_fits(tiny_folder: Path, root: Path, silent: Report) -> None:
    store = ModelStore(root)
    original = store.locate(str(tiny_folder), silent)
    as_it_is = stored_bytes(read_weights(tiny_folder), None)

    kept = store.quantized_as_configured(original, "auto", WeightRoom(2 * as_it_is), silent)
    smaller = store.quantized_as_configured(original, "auto", WeightRoom(as_it_is // 2), silent)

    assert kept.folder == tiny_folder
    assert "as it is" in kept.origin
    assert smaller.manifest
    assert smaller.manifest.optimisation
    assert smaller.manifest.optimisation.bytes_after <= 0.75 * (as_it_is // 2)
    assert smaller.manifest.optimisation.recipe in smaller.origin


def folder_with(tiny_folder: Path, folder: Path, **changes: object) -> Path:
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_of_a_model_is_neither_run_nor_copied(
    tiny_folder: Path, root: Path, tmp_path: Path, silent: Report
) -> None:
    folder = folder_with(tiny_folder, tmp_path / "sly", model_file="evil.py")
    (folder / "evil.py").write_text("raise SystemExit('run')")
    store = ModelStore(root)
    with pytest.raises(ModelStoreError, match=r"asks to execute 'evil.py'"):
        store.optimised(store.locate(str(folder), silent), read_recipe("4"), silent)

    (folder / "config.json").write_text((tiny_folder / "config.json").read_text())
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    made = store.optimised(store.locate(str(folder), silent), read_recipe("4"), silent)
    assert not (made.folder / "evil.py").exists()
    assert (made.folder / "chat_template.jinja").read_text() == "{{ messages }}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"model_type": "abacus"}, "Model type abacus not supported"), ({"num_hidden_layers": 3}, "Missing")],
)
def test_a_model_that_mlx_lm_cannot_load_is_refused_with_its_words(
    changes: dict[str, object], told: str, tiny_folder: Path, root: Path, tmp_path: Path, silent: Report
) -> None:
    store = ModelStore(root)
    original = store.locate(str(folder_with(tiny_folder, tmp_path / "odd", **changes)), silent)
    with pytest.raises(ModelFilesInvalid, match=told):
        store.optimised(original, read_recipe("4"), silent)
    assert list((root / "incoming").iterdir()) == []
    assert list((root / "models").iterdir()) == []


def test_a_disk_that_fills_up_is_told_as_such(tiny_folder: Path, tmp_path: Path, silent: Report) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no device that is always full on this system")
    (tmp_path / "model.safetensors").symlink_to("/dev/full")
    with pytest.raises(ModelStoreError, match=r"the disk is full, \d+ bytes are free"), disk_errors_explained(tmp_path):
        quantize_folder(tiny_folder, tmp_path, read_recipe("4"), None, silent)


QUANTIZE_IN_A_PROCESS = """
import sys
from pathlib import Path
from gateway.model_store.store import ModelStore
from gateway.model_store.quantization_recipe import read_recipe

store = ModelStore(Path(sys.argv[1]))
def report(fraction, doing):
    print(doing, flush=True)
    if doing == "quantising":
        sys.stdin.read()
store.optimised(store.locate(sys.argv[2], report), read_recipe("4"), report)
"""


def test_a_kill_in_the_middle_leaves_nothing_half(tiny_folder: Path, root: Path, silent: Report) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", QUANTIZE_IN_A_PROCESS, str(root), str(tiny_folder)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    while (line := process.stdout.readline().strip()) != "quantising":
        assert line, "the process ended before it quantised"
    (child,) = psutil.Process(process.pid).children()
    assert child.nice() == 19
    process.send_signal(signal.SIGKILL)
    process.communicate()
    child.wait()  # it has nobody to report to, and ends

    assert list((root / "models").iterdir()) == []
    store = ModelStore(root)
    assert list((root / "incoming").iterdir()) == []
    with pytest.raises(ModelStoreError, match="is no model"):
        store.locate("tiny-4bit", silent)
    made = store.optimised(store.locate(str(tiny_folder), silent), read_recipe("4"), silent)
    assert set(bits_by_module(made.folder).values()) == {4}


def test_a_killed_child_is_told(tiny_folder: Path, root: Path, silent: Report) -> None:
    others = psutil.Process().children()  # servers that all tests share, for one

    def kill(_fraction: float, _doing: str) -> None:
        for child in set(psutil.Process().children()) - set(others):
            child.kill()

    store = ModelStore(root)
    with pytest.raises(ModelStoreError, match="most likely because memory ran out"):
        store.optimised(store.locate(str(tiny_folder), silent), read_recipe("4"), kill)
    assert list((root / "incoming").iterdir()) == []


def test_what_is_not_measured_is_not_claimed(tiny_folder: Path) -> None:
    from gateway.model_store.perplexity import measured_perplexity

    assert measured_perplexity(tiny_folder, None, needed_bytes=1 << 62) is None
