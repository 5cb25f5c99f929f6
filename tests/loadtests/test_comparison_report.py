"""Figures from streams whose times are known."""

import pytest

from loadtests.comparison_report import Figures, Round, compare, figures
from loadtests.streaming_client import ChatStream


def stream(started: float, content_times: list[float]) -> ChatStream:
    chat = ChatStream()
    chat.started, chat.content_times, chat.ended = started, content_times, content_times[-1]
    return chat


def turn(*values: float) -> Round:
    return Round(Figures(*values), prompt_tokens=[1], tokens=[1], idle_cpu_cores=0, foreign_cpu_cores=0)


def test_figures_of_streams_that_ran_together() -> None:
    found = figures([stream(0, [1, 2, 3]), stream(1, [4, 5, 9])])

    assert found.ttft_seconds == (1 + 3) / 2
    assert found.decode_tokens_per_second == pytest.approx((2 / 2 + 2 / 5) / 2)
    assert found.aggregate_tokens_per_second == pytest.approx(6 / 9)
    assert found.longest_gap_seconds == 4


def test_ratios_are_taken_pair_by_pair() -> None:
    """A disturbance that both turns of a round met cancels out; the ratio of the medians would be 1/4."""
    rounds = {
        "ours": [turn(1, 1, 1, 1), turn(8, 8, 8, 8), turn(1, 1, 1, 1)],
        "theirs": [turn(2, 2, 2, 2), turn(16, 16, 16, 16), turn(4, 4, 4, 4)],
    }

    comparison = compare(1, rounds)

    assert comparison.medians == {"ours": Figures(1, 1, 1, 1), "theirs": Figures(4, 4, 4, 4)}
    assert comparison.ratios == Figures(0.5, 0.5, 0.5, 0.5)


def test_a_server_alone_has_no_ratio() -> None:
    assert compare(1, {"ours": [turn(1, 1, 1, 1)]}).ratios is None
