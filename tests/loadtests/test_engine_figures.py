"""The engine's figures: from known times, and one section for real."""

from pathlib import Path

import msgspec
import pytest

from loadtests.engine_figures.__main__ import main
from loadtests.engine_figures.stall import Turn
from loadtests.figure import Report, at_least, at_most, each, ratio, span, worst_of
from loadtests.streaming_client import ChatStream

SAMPLES = {"ours": [2.0, 6.0, 8.0], "theirs": [1.0, 2.0, 8.0]}


def stream(started: float, content_times: list[float]) -> ChatStream:
    chat = ChatStream()
    chat.started, chat.content_times, chat.ended = started, content_times, content_times[-1]
    return chat


def test_a_ratio_is_taken_round_by_round_and_held_against_its_goal() -> None:
    figure = ratio(SAMPLES, "ours", "theirs", at_least(2.0))

    assert (figure.value, figure.rounds, figure.met) == (2.0, [2.0, 3.0, 1.0], True)
    assert "1.000 to 3.000" in str(figure)
    assert "goal >= 2: met" in str(figure)
    assert "MISSED" in str(ratio(SAMPLES, "ours", "theirs", at_most(1.9)))


def test_without_a_goal_nothing_is_met_or_missed() -> None:
    ours, theirs = each("tokens/s", SAMPLES)

    assert (ours.what, ours.value, ours.met) == ("ours: tokens/s", 6.0, None)
    assert (theirs.what, theirs.value) == ("theirs: tokens/s", 2.0)
    assert "goal" not in str(ours)


def test_the_worst_round_counts_where_none_may_fail() -> None:
    assert worst_of("cut", [0, 0, 1], at_most(0)).met is False
    assert worst_of("kept", [5, 3, 4], at_least(3)).value == 3


def test_counts_as_a_span() -> None:
    assert span([3, 3]) == "3"
    assert span([[5, 9], [7]]) == "5 to 9"


def test_a_stall_is_a_gap_that_the_long_prompt_touches() -> None:
    """It arrives at 10.5 and is answered at 20; gaps before and after do not count, however long."""
    running = stream(0, [3, 7, 8, 9, 10, 13, 14, 19, 25, 45])
    turn = Turn(alone=stream(0, [8]), running=running, beside=stream(10.5, [20]))

    assert turn.median_gap == 1  # of 4, 1, 1, 1
    assert turn.longest_gap == 6  # 19 to 25: under way when the answer came
    assert turn.pieces_meanwhile == 3
    assert turn.beside_seconds / turn.alone_seconds == 9.5 / 8


@pytest.mark.slow
def test_a_section_for_real_and_the_json_holds_what_was_printed(
    demo_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file = tmp_path / "figures.json"
    options = ["--only", "one_client", "--rounds", "1", "--store", str(demo_store), "--json", str(json_file)]

    assert main(options) == 0

    report = msgspec.json.decode(json_file.read_bytes(), type=Report)
    printed = capsys.readouterr().out
    assert report.command[-len(options) :] == options
    assert report.blas in printed
    assert set(report.machine.versions) == {"mlx", "mlx-lm", "mlx-gateway"}
    (section,) = report.sections
    assert str(section) in printed
    assert not section.failure
    assert {figure.what.partition(":")[0] for figure in section.measured.figures} >= {
        "gateway",
        "mlx_lm",
        "bare BatchGenerator",
        "bare generate_step",
    }
    assert all(figure.value > 0 for figure in section.measured.figures)
    assert any(figure.goal for figure in section.measured.figures)


def test_an_unknown_section_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "stall,nonsense"])
    assert "there is no nonsense" in capsys.readouterr().err
