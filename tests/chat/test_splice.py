from hypothesis import given
from hypothesis import strategies as st

from gateway.chat.splice import BEFORE_CHARACTERS, Marks, Place, common_length, misplaced, place_of, reopened

texts = st.text(max_size=20)


@given(contents=st.lists(texts, min_size=1, max_size=5))
def test_a_text_is_cut_at_its_marks(contents: list[str]) -> None:
    marks = Marks()
    text = contents[0] + "".join(marks.mark(number) + content for number, content in enumerate(contents[1:]))
    assert marks.cut(text) == (contents, list(range(len(contents) - 1)))


def test_marks_are_new_each_time() -> None:
    marks, others = Marks(), Marks()
    assert marks.cut(others.mark(1)) == ([others.mark(1)], [])
    assert marks.cut(marks.mark(12)) == (["", ""], [12])


def test_marks_that_are_missing_repeated_or_in_another_order() -> None:
    assert misplaced([1, 4], [4, 1]) == set()
    assert misplaced([4], [1, 4]) == {1}
    assert misplaced([1, 4, 4], [1, 4]) == {4}
    assert misplaced([4, 1], [1, 4]) == {1, 4}


@given(before=st.text(min_size=1, max_size=20), opening=texts, heading=texts)
def test_a_part_ends_as_its_place_did_or_is_not_it(before: str, opening: str, heading: str) -> None:
    place = place_of(before + opening, opening)
    assert place == Place(before, opening)
    part = reopened(before + heading, place)
    assert part is None or part.endswith(before + opening)
    assert reopened(before + opening, place) == before + opening


def test_another_heading_becomes_the_opening() -> None:
    place = Place("?<end>", "<start>assistant<think>")
    assert reopened("Why?<end><start>assistant", place) == "Why?<end><start>assistant<think>"
    assert reopened("Why?<end><start>assistant</think>", place) == "Why?<end><start>assistant<think>"
    assert reopened("Why?<end>", place) == "Why?<end><start>assistant<think>"
    assert reopened("Why?<end> ", Place("?<end>", "")) == "Why?<end>"


def test_more_than_a_heading_is_another_place() -> None:
    place = Place("?<end>", "<start>assistant")
    assert reopened("Why?<end>And so on<end><start>assistant", place) is None
    assert reopened("Why?<end><start>" + 300 * "x", place) is None
    assert reopened("Why!<end><start>assistant", place) is None
    assert reopened("Why?<end>text", Place("?<end>", "")) is None


def test_a_place_is_short() -> None:
    assert place_of("x" * 1_000 + "opening", "opening") == Place("x" * BEFORE_CHARACTERS, "opening")
    assert place_of("opening", "opening") is None
    assert place_of("x" * 1_000, "x" * 999) is None


@given(beginning=texts, one=texts, other=texts)
def test_the_length_of_a_common_beginning(beginning: str, one: str, other: str) -> None:
    one, other = beginning + one, beginning + other
    length = common_length(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]
