"""Long arguments cost as much as they are long, for the event loop reads them: four times the text, four times as much.

The bound is half of what quadratic work would cost; each time is the better of two, of the process alone.
"""

import time
from collections.abc import Callable, Iterable

import pytest

from gateway.chat.output_parser import OutputParser, PlainParser
from gateway.chat.reasoning import ReasoningMarks, ReasoningParser
from gateway.chat.tool_calls.gemma4 import Gemma4
from gateway.chat.tool_calls.hermes import Hermes
from gateway.chat.tool_calls.literals import literal_as_json
from gateway.chat.tool_calls.qwen3_coder import Qwen3Coder
from tests.chat.tool_calls.readings import TOOLS

MOST_RATIO = 8.0


def seconds(work: Callable[[], object]) -> float:
    def once() -> float:
        begin = time.process_time()
        work()
        return time.process_time() - begin

    return min(once() for _ in range(2))


def feed(parser: OutputParser, parts: Iterable[str]) -> None:
    for part in parts:
        parser.feed(part)
    parser.finish()


def hermes(value: str) -> tuple[OutputParser, str]:
    return Hermes().parser(TOOLS), f'<tool_call>{{"name": "f", "arguments": {{"a": {value}}}}}</tool_call>'


def qwen(parameter: str, value: str) -> tuple[OutputParser, str]:
    text = (
        f"<tool_call>\n<function=read_file>\n<parameter={parameter}>\n{value}\n</parameter>\n</function>\n</tool_call>"
    )
    return Qwen3Coder().parser(TOOLS), text


def reasoning(inner: str) -> tuple[OutputParser, str]:
    return ReasoningParser(ReasoningMarks("<think>", "</think>"), PlainParser(), opened=True), f"{inner}</think>Yes"


def python_list(length: int) -> str:
    return "[" + "'x', " * (length // 5) + "]"


def gemma(value: str) -> tuple[OutputParser, str]:
    return Gemma4().parser(TOOLS), f"<|tool_call>call:read_file{{options:{value}}}<tool_call|>"


IN_ONE_PIECE: dict[str, Callable[[int], tuple[OutputParser, str]]] = {
    "escapes": lambda length: hermes('"' + "\\n" * (length // 2) + '"'),
    "literals": lambda length: qwen("tags", python_list(length)),
    "values of Gemma": lambda length: gemma(f"[{'1,' * (length // 2)}]"),
    "lines": lambda length: hermes('"' + "\n" * length + '"'),
}

IN_LETTERS: dict[str, Callable[[int], tuple[OutputParser, str]]] = {
    "white space before thoughts": lambda length: reasoning(" " * length + "So."),
    "white space between thoughts": lambda length: reasoning("So" + " " * length + "so."),
    "white space in a value": lambda length: qwen("note", " " * length),
    "white space in words": lambda length: (Hermes().parser(TOOLS), "a" + " " * length + "b"),
    "a number": lambda length: qwen("other", "1" * length),
    "a list": lambda length: qwen("other", f"[{'1,' * (length // 2)}1]"),
    "a string": lambda length: hermes('"' + "x" * length + '"'),
}


@pytest.mark.parametrize("of_length", IN_ONE_PIECE.values(), ids=IN_ONE_PIECE)
def test_200_kilobytes_in_one_piece(of_length: Callable[[int], tuple[OutputParser, str]]) -> None:
    def work(length: int) -> Callable[[], object]:
        def read() -> None:
            parser, text = of_length(length)
            feed(parser, [text])

        return read

    assert seconds(work(200_000)) / seconds(work(50_000)) < MOST_RATIO


@pytest.mark.parametrize("of_length", IN_LETTERS.values(), ids=IN_LETTERS)
def test_many_letters(of_length: Callable[[int], tuple[OutputParser, str]]) -> None:
    def work(length: int) -> Callable[[], object]:
        def read() -> None:
            parser, text = of_length(length)
            feed(parser, text)

        return read

    assert seconds(work(60_000)) / seconds(work(15_000)) < MOST_RATIO


def test_a_literal_of_200_kilobytes() -> None:
    short, long = (python_list(length) for length in (50_000, 200_000))
    assert literal_as_json(long).count("x") == 40_000
    assert seconds(lambda: literal_as_json(long)) / seconds(lambda: literal_as_json(short)) < MOST_RATIO
