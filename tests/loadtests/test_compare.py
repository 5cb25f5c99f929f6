"""The comparison runs for real, if briefly."""

from dataclasses import astuple
from pathlib import Path

import msgspec
import pytest

from loadtests.compare import main
from loadtests.comparison_report import Report
from loadtests.servers import GATEWAY, MLX_LM


@pytest.mark.slow
def test_both_servers_are_measured_and_the_json_holds_what_was_printed(
    demo_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file = tmp_path / "figures.json"
    size = ["--clients", "1,2", "--tokens", "8", "--prompt-tokens", "100", "--rounds", "1"]

    assert main([*size, "--store", str(demo_store), "--json", str(json_file)]) == 0

    report = msgspec.json.decode(json_file.read_bytes(), type=Report)
    printed = capsys.readouterr().out
    assert report.machine.cpu in printed
    assert report.blas in printed
    assert set(report.machine.versions) == {"mlx", "mlx-lm", "mlx-gateway"}
    assert [comparison.clients for comparison in report.comparisons] == [1, 2]
    for comparison in report.comparisons:
        assert comparison.ratios
        assert min(astuple(comparison.ratios)) > 0
        for server in (GATEWAY, MLX_LM):
            (turn,) = comparison.rounds[server]
            assert min(astuple(turn.figures)) > 0
            assert turn.tokens == [8] * comparison.clients
            assert comparison.medians[server] == turn.figures
            assert f"{turn.figures.decode_tokens_per_second:.3f}" in printed
        # the same prompts, counted by two servers
        assert comparison.rounds[GATEWAY][0].prompt_tokens == comparison.rounds[MLX_LM][0].prompt_tokens
