from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.chat.stop_strings import StopStrings

texts = st.text(alphabet="ab#é", max_size=30)
stop_lists = st.lists(st.text(alphabet="ab#é", min_size=1, max_size=4), max_size=3).map(tuple)


def cut(text: str, positions: list[int]) -> list[str]:
    marks = sorted({0, len(text), *(position % (len(text) + 1) for position in positions)})
    return [text[start:end] for start, end in pairwise(marks)]


@given(texts, stop_lists, st.lists(st.integers(0, 100)))
def test_ends_before_the_earliest_stop_however_the_text_is_cut(
    text: str, stops: tuple[str, ...], positions: list[int]
) -> None:
    """A stop is found once it is whole, and of several the one that is complete first decides."""
    parser, out = StopStrings(stops), ""
    fed = ""
    for piece in cut(text, positions):
        fed += piece
        out += parser.feed(piece)
        if parser.stopped:
            break
    else:
        out += parser.finish()
    present = [fed.find(stop) for stop in stops if stop in fed]
    assert parser.stopped == bool(present)
    assert out == fed[: min(present, default=len(fed))]


@given(texts, stop_lists)
def test_nothing_is_held_back_that_cannot_be_a_stop(text: str, stops: tuple[str, ...]) -> None:
    parser = StopStrings(stops)
    out = parser.feed(text)
    held = text[len(out) :] if not parser.stopped else ""
    assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_of_two_stops_in_one_piece_the_earlier_counts() -> None:
    assert StopStrings(("b", "a")).feed("xay b") == "x"


def test_text_passes_at_once_without_stops() -> None:
    assert StopStrings(()).feed("anything") == "anything"
