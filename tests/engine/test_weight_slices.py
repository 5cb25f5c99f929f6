"""Weights read and expanded in pieces, against mlx-lm's own way."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx.utils import tree_flatten

from gateway.engine import weight_slices
from gateway.engine.model_loader import import_architecture, load_in_slices, load_model
from gateway.engine.sliced_work import at_once
from gateway.engine.weight_slices import Stopwatch, Work
from gateway.errors import ModelFilesInvalid, ModelStoreError
from tests.model_store.test_weight_sizes import CONFIGS, QUANTISED, write_model


def flat(model: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def in_tiny_slices(folder: Path, dtype: mx.Dtype | None) -> tuple[Any, list[float]]:
    """The model, and the fractions that were told, when every piece is a slice of its own."""
    slices = load_in_slices(folder, dtype, lambda needed: ())
    fractions = [next(slices)]
    try:
        while True:
            fractions.append(slices.send(1e-9))
    except StopIteration as end:
        return end.value[0], fractions


@pytest.mark.parametrize("quantization", [options for _, options in QUANTISED], ids=[name for name, _ in QUANTISED])
@pytest.mark.parametrize("name", CONFIGS)
def test_pieces_make_what_mlx_lm_makes_at_once(
    name: str, quantization: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_slices, "SMALLEST_PIECE_BYTES", 1 << 10)  # a few rows
    write_model(tmp_path, name, quantization)
    expected, _ = mlx_lm.utils.load_model(tmp_path)
    expected.set_dtype(mx.float32)
    expected = mlx_lm.utils.dequantize_model(expected)
    expected.set_dtype(mx.float32)

    model, fractions = in_tiny_slices(tmp_path, mx.float32)

    ours, theirs = flat(model), flat(expected)
    assert ours.keys() == theirs.keys()
    for parameter, array in theirs.items():
        assert ours[parameter].dtype == array.dtype
        assert mx.array_equal(ours[parameter], array), parameter
    assert len(fractions) > len(ours)
    assert fractions == sorted(fractions)
    assert fractions[-1] <= 1


def test_weights_as_they_are(tmp_path: Path) -> None:
    write_model(tmp_path, "llama", {"group_size": 32, "bits": 4})
    expected, _ = mlx_lm.utils.load_model(tmp_path)
    model, _ = in_tiny_slices(tmp_path, None)
    for parameter, array in flat(expected).items():
        assert mx.array_equal(flat(model)[parameter], array)


def test_a_weight_that_is_expanded_in_pieces_exists_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory beyond the weights is that of the largest one as it is stored, and of two pieces."""
    config = {**CONFIGS["llama"], "vocab_size": 1 << 15}
    monkeypatch.setitem(CONFIGS, "llama", config)
    write_model(tmp_path, "llama", dtype=mx.float16)
    monkeypatch.setattr(weight_slices, "LARGEST_PIECE_BYTES", 1 << 18)
    stored = 2 * config["hidden_size"] * config["vocab_size"]
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()

    _, weight_bytes = at_once(load_in_slices(tmp_path, mx.float32, lambda needed: ()), lambda fraction: None)

    assert mx.get_peak_memory() - before < weight_bytes + stored + (2 << 18) + (1 << 18)


def test_nothing_is_read_before_it_is_claimed(tmp_path: Path) -> None:
    write_model(tmp_path, "llama")
    claimed: list[int] = []

    def refuse(needed: int) -> tuple[float, ...]:
        claimed.append(needed)
        raise MemoryError

    before = mx.get_active_memory()
    with pytest.raises(MemoryError):
        at_once(load_in_slices(tmp_path, mx.float32, refuse), lambda fraction: None)
    assert claimed == [load_model(tmp_path, mx.float32, lambda fraction: None).weight_bytes]
    assert mx.get_active_memory() - before < claimed[0] / 2


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model_type": "nonesuch"}', "mlx-lm knows no architecture 'nonesuch'"),
        ("{}", "mlx-lm knows no architecture 'None'"),
        ('{"model_type": "llama"}', "not those of its config.json"),
        ('{"model_type": "llama", "model_file": "evil.py"}', "execute 'evil.py'"),
        ("[", "cannot be read"),
    ],
)
def test_a_config_that_is_no_use(config: str, said: str, tmp_path: Path) -> None:
    write_model(tmp_path, "llama")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelStoreError, match=said):
        at_once(load_in_slices(tmp_path, None, lambda needed: ()), lambda fraction: None)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_is_cut_short(kept: float, tmp_path: Path) -> None:
    write_model(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ModelFilesInvalid):
        at_once(load_in_slices(tmp_path, None, lambda needed: ()), lambda fraction: None)


def test_no_weights_at_all(tmp_path: Path) -> None:
    write_model(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    import_architecture(tmp_path)
    with pytest.raises(ModelFilesInvalid, match="No safetensors"):
        at_once(load_in_slices(tmp_path, None, lambda needed: ()), lambda fraction: None)


def test_what_fits_a_slice_is_learned() -> None:
    clock = Stopwatch()
    clock.start(10.0)
    for _ in range(50):
        clock.done(Work.READ, 1000, 1.0)
    assert clock.bytes_in_slice(Work.READ) == pytest.approx(10_000, rel=0.01)
    assert clock.fits(Work.READ, 9_000)
    assert not clock.fits(Work.READ, 11_000)
    assert clock.fits(Work.EXPAND, 11_000)  # of which nothing was seen


def test_a_new_slice_does_one_piece_however_long() -> None:
    clock = Stopwatch()
    clock.start(0.0)
    assert clock.fits(Work.READ, 1 << 40)
    clock.done(Work.READ, 1, 0.0)
    assert not clock.fits(Work.READ, 1 << 40)
