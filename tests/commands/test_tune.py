"""Measuring with the tiny model, and what `serve` makes of the result."""

from pathlib import Path

import pytest

from gateway.cli import main
from gateway.commands.tune import narrowest_worthwhile
from gateway.config import load_config


@pytest.mark.parametrize(
    ("rates", "width"), [({1: 10, 2: 19, 4: 30, 8: 30.5}, 4), ({1: 10, 2: 9}, 1), ({1: 10, 2: 20, 4: 40}, 4)]
)
def test_the_narrowest_batch_that_is_fast(rates: dict[int, float], width: int) -> None:
    assert narrowest_worthwhile(rates) == width


def test_measured_written_and_read(
    tmp_path: Path,
    tiny_folder: Path,
    demo_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLX_GATEWAY_STORE_DIRECTORY", str(demo_store))
    file = tmp_path / "config.toml"
    file.write_text("[engine]\nkv_bits = 0\n")
    arguments = ["tune", "--config", str(file), "--model", str(tiny_folder), "--prompt-tokens", "100"]
    assert main([*arguments, "--answer-tokens", "8", "--chunks", "32", "--widths", "2"]) == 0
    assert "PREFILL CHUNK" in capsys.readouterr().out
    tuned = tmp_path / "tuned.toml"
    config = load_config(file, environment={}, tuned=tuned)
    assert (config.engine.prefill_chunk_tokens, config.engine.max_running) == (32, 2)
    file.write_text("[engine]\nmax_running = 5\n")
    config = load_config(file, environment={}, tuned=tuned)
    assert (config.engine.prefill_chunk_tokens, config.engine.max_running) == (32, 5)
