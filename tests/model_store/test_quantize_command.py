"""`mlx-gateway quantize`, as a person runs it."""

from pathlib import Path

import pytest

from gateway.cli import main
from gateway.model_store.store import ModelStore


def test_it_makes_a_model_and_says_what_that_changed(
    tiny_folder: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_GATEWAY_STORE_DIRECTORY", str(root))

    assert main(["quantize", str(tiny_folder), "--bits", "4", "--group-size", "32", "--id", "small"]) == 0

    printed = capsys.readouterr()
    assert printed.out.startswith(f"small is in {root}")
    assert "bits a weight; perplexity" in printed.out
    assert "quantising to 4:32" in printed.err
    made = ModelStore(root).locate("small", lambda _fraction, _doing: None)
    assert made.manifest
    assert made.manifest.optimisation
    assert made.manifest.optimisation.recipe == "4:32"


def test_a_model_that_is_none_is_told(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_GATEWAY_STORE_DIRECTORY", str(root))
    assert main(["quantize", "nothing", "--recipe", "mixed_4_6"]) == 2
    assert "'nothing' is no model" in capsys.readouterr().err
