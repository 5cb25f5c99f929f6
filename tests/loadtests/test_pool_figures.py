"""The pool's figures: from known times, and for real."""

from pathlib import Path

import msgspec
import pytest

from loadtests.figure import Report
from loadtests.pool_figures.__main__ import main
from loadtests.pool_figures.load_stall import Turn


def test_a_stall_is_a_gap_that_the_load_touches() -> None:
    """It begins at 10.5 and ends at 20; gaps before and after do not count, however long."""
    turn = Turn([3, 7, 8, 9, 10, 13, 14, 19, 25, 45], began=10.5, ready=20, alone_seconds=4)

    assert turn.median_gap == 1  # of 4, 1, 1, 1
    assert turn.longest_gap == 6  # 19 to 25: under way when the model was there
    assert turn.pieces_meanwhile == 3
    assert turn.beside_seconds == 9.5


@pytest.mark.slow
def test_the_short_sections_for_real(demo_store: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "figures.json"
    only = ["--only", "switch,load_stall"]

    assert main([*only, "--rounds", "1", "--store", str(demo_store), "--json", str(json_file)]) == 0

    report = msgspec.json.decode(json_file.read_bytes(), type=Report)
    for section in report.sections:
        assert not section.failure
        assert all(figure.value > 0 for figure in section.measured.figures)
        assert any(figure.goal for figure in section.measured.figures)
