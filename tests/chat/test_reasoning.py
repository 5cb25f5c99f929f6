"""Reasoning is told from the answer, wherever the text is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.chat.output_format import output_format
from gateway.chat.output_parser import Piece, PlainParser, Said, Thought
from gateway.chat.reasoning import KNOWN_MARKS, ReasoningMarks, ReasoningParser, reasoning_marks
from tests.chat.tool_calls.readings import fed, parts_of

THINK = ReasoningMarks("<think>", "</think>")

words = st.text(alphabet=st.sampled_from("ab <>/\n\t🦜é"), max_size=20)
cut_places = st.lists(st.integers(0, 80), max_size=6)
each_kind = pytest.mark.parametrize("marks", KNOWN_MARKS, ids=[marks.opening for marks in KNOWN_MARKS])


def pieces(text: str, cuts: list[int], *, opened: bool = False, marks: ReasoningMarks = THINK) -> list[Piece]:
    return fed(ReasoningParser(marks, PlainParser(), opened=opened), parts_of(text, cuts))


@each_kind
@settings(max_examples=100, deadline=None)
@given(thought=words, said=words, opened=st.booleans(), again=st.booleans(), cuts=cut_places)
def test_what_is_between_the_marks_is_reasoning(
    marks: ReasoningMarks, thought: str, said: str, opened: bool, again: bool, cuts: list[int]
) -> None:
    opening = marks.opening if again or not opened else ""
    text = f"{opening}{thought}{marks.closing}{said}"
    expected: list[Piece] = [Thought(thought.strip())] if thought.strip() else []
    expected += [Said(said.lstrip())] if said.strip() else []
    assert pieces(text, cuts, opened=opened, marks=marks) == expected


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(words | st.sampled_from(["<think>", "</think>", "<thi", "</think"]), max_size=6),
    opened=st.booleans(),
    cuts=cut_places,
)
def test_every_cut_gives_the_same(parts: list[str], opened: bool, cuts: list[int]) -> None:
    text = "".join(parts)
    assert pieces(text, cuts, opened=opened) == pieces(text, [], opened=opened)
    assert fed(ReasoningParser(THINK, PlainParser(), opened=opened), text) == pieces(text, [], opened=opened)


@pytest.mark.parametrize(
    "text",
    [
        "Write <think> before </think>.",
        "a </think> b",
        " \n`<think>`",
        "<thinking about it",
        "<",
    ],
)
def test_an_answer_about_marks_stays(text: str) -> None:
    assert fed(ReasoningParser(THINK, PlainParser(), opened=False), text) == [Said(text)]
    assert pieces(f"<think>So.</think>{text}", [3]) == [Thought("So."), Said(text.lstrip())]


def test_reasoning_that_does_not_end_is_never_said() -> None:
    assert pieces("<think>First, I", [4]) == [Thought("First, I")]
    assert pieces("First, I\n", [2], opened=True) == [Thought("First, I")]
    assert pieces("<thi", [], opened=True) == [Thought("<thi")]


def test_who_expects_what() -> None:
    parser = ReasoningParser(THINK, PlainParser(), opened=True)
    assert parser.thinking
    assert not parser.saying
    parser.feed("So.")
    assert parser.thinking
    parser.feed("</think>")
    assert parser.saying
    assert not parser.thinking


@each_kind
def test_the_prompt_may_have_opened_it(marks: ReasoningMarks) -> None:
    assert marks.opened_in(f"<|assistant|>{marks.opening}\n")
    assert not marks.opened_in(f"<|assistant|>{marks.opening}\n\n{marks.closing}\n\n")
    assert reasoning_marks(f"{{{{ {marks.known_by or marks.closing} }}}}") == marks


def test_without_tools_only_the_reasoning_is_taken_out() -> None:
    parser = output_format("<think></think><tool_call></tool_call>").parser((), "<think>\n")
    assert fed(parser, ["So.</think>\n\nWrite <tool_call>."]) == [Thought("So."), Said("Write <tool_call>.")]
