"""What all dialects have in common: calls come out as they were written, however the text was cut."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.chat.output_parser import CallArguments, CallBegan, Said
from gateway.chat.tool_calls.dialect import ToolDialect
from gateway.chat.tool_calls.table import DIALECTS
from tests.chat.tool_calls.readings import TOOLS, Call, fed, parts_of, read, understood
from tests.chat.tool_calls.writers import WRITERS, Calls

each_format = pytest.mark.parametrize(("dialect", "write"), WRITERS.values(), ids=WRITERS)

EXAMPLES: dict[str, Calls] = {
    "one": [("read_file", {"path": "a.txt"})],
    "no arguments": [("read_file", {})],
    "two": [("read_file", {"path": "a.txt"}), ("list-files", {"deep": True})],
    "every type": [
        (
            "read_file",
            {"count": 3, "ratio": -0.5, "deep": False, "note": None, "tags": ["a", "b"], "options": {"a": {}}},
        )
    ],
    "nested": [("read_file", {"options": {"a": [1, {"b": "}]"}], "c": [[], {}, None, True]}})],
    "strings that look like others": [("read_file", {"path": "12", "note": "nullable"}), ("f", {})],
    "unicode": [("read_file", {"path": "Ünï/文件/🦜.txt"})],
    "quotes and lines": [("read_file", {"path": 'say "hi"\\n\n\tand \'bye\' {"a": [1'})],
    "an unknown tool": [("unknown_tool", {"path": "x y", "other": "words"})],
}


def expected(calls: Calls) -> list[Call]:
    return [Call(name, arguments) for name, arguments in calls]


@each_format
@pytest.mark.parametrize("calls", EXAMPLES.values(), ids=EXAMPLES)
def test_calls_come_out_as_they_were_written(dialect: ToolDialect, write: Callable[[Calls], str], calls: Calls) -> None:
    if "-" in calls[-1][0] and "(" in write([("f", {})]):
        calls = [(name.replace("-", "_"), arguments) for name, arguments in calls]
    assert understood(read(dialect, write(calls))) == expected(calls)


@each_format
def test_words_around_calls_are_kept(dialect: ToolDialect, write: Callable[[Calls], str]) -> None:
    calls = EXAMPLES["one"]
    text = f"I look. \n\n{write(calls)}"
    if "harmony" in type(dialect).__module__:
        text = f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{write(calls)}"
    assert understood(read(dialect, text)) == ["I look.", *expected(calls)]
    assert understood(read(dialect, f"{write(calls)}\n\nAnd then?")) == [*expected(calls), "And then?"]


@each_format
def test_words_between_and_behind_calls_do_not_run_together(
    dialect: ToolDialect, write: Callable[[Calls], str]
) -> None:
    calls = EXAMPLES["one"]
    found = understood(read(dialect, f"One\n{write(calls)}\nTwo"))
    assert found == ["One", *expected(calls), "\nTwo"]


@each_format
def test_an_answer_without_calls_is_as_it_was(dialect: ToolDialect, write: Callable[[Calls], str]) -> None:
    del write
    for text in (
        "Hello, world!",
        " a < b and {c} [d] (e) \n\n",
        "\n",
        '{"json": [1, "2"]}',
        "```\n[1]\n```\n",
        "<b>x</b>",
    ):
        assert read(dialect, text) == [Said(text)]


@each_format
def test_a_call_cut_by_the_limit_ends_without_its_end(dialect: ToolDialect, write: Callable[[Calls], str]) -> None:
    calls = [("read_file", {"path": "a.txt", "note": "second"})]
    text = write(calls)
    begun = False
    for length in range(len(text)):
        pieces = fed(dialect.parser(TOOLS), [text[:length]])
        names = [piece.name for piece in pieces if isinstance(piece, CallBegan)]
        arguments = "".join(piece.text for piece in pieces if isinstance(piece, CallArguments))
        assert names in ([], ["read_file"])
        begun = begun or bool(names)
        if arguments and length < text.index("second"):
            with pytest.raises(json.JSONDecodeError):
                json.loads(arguments)
        if begun:
            assert names  # longer texts do not take it back
            assert not [piece for piece in pieces if isinstance(piece, Said)]


@each_format
def test_the_name_comes_before_the_arguments_are_written(dialect: ToolDialect, write: Callable[[Calls], str]) -> None:
    text = write([("read_file", {"path": "secret"})])
    pieces = dialect.parser(TOOLS).feed(text[: text.index("secret")])
    assert CallBegan("read_file") in pieces


@each_format
def test_a_long_string_comes_in_fragments(dialect: ToolDialect, write: Callable[[Calls], str]) -> None:
    long = "word " * 2000 + "end"
    text = write([("read_file", {"path": long})])
    parser = dialect.parser(TOOLS)
    fragments = [piece for letter in text for piece in parser.feed(letter) if isinstance(piece, CallArguments)]
    assert max(len(fragment.text) for fragment in fragments) < 30
    assert json.loads("".join(fragment.text for fragment in fragments)) == {"path": long}


def test_every_dialect_of_the_table_is_tested() -> None:
    assert {type(dialect) for dialect, _ in WRITERS.values()} == {type(dialect) for dialect in DIALECTS}


words = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<>[]｜|`\\\r", exclude_categories=["C"]))
texts = words.filter(lambda text: text == text.strip() and text.lower() not in ("", "null", "none", "true", "false"))
plain = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6).map(lambda x: round(x, 3) + 0.0)
values = st.recursive(
    plain | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "path": texts,
        "note": texts.filter(lambda text: not text.lower().startswith("n")),
        "count": st.integers(-(10**12), 10**12),
        "ratio": st.floats(-1e6, 1e6).map(lambda x: round(x, 3) + 0.0),
        "deep": st.booleans(),
        "tags": st.lists(texts, max_size=3),
        "options": st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), values, max_size=3),
    },
)
calls_of_tools = st.lists(
    st.tuples(st.sampled_from(["read_file", "list_files", "a"]), arguments), min_size=1, max_size=3
)


@pytest.mark.parametrize("name", WRITERS)
def test_any_calls_come_out_however_they_are_cut(name: str) -> None:
    dialect, write = WRITERS[name]

    @settings(max_examples=60, deadline=None)
    @given(calls=calls_of_tools, cuts=st.lists(st.integers(0, 600), max_size=8))
    def check(calls: list[tuple[str, dict[str, Any]]], cuts: list[int]) -> None:
        known = [*TOOLS, type(TOOLS[0])("list_files", parameters=TOOLS[0].parameters)]
        known.append(type(TOOLS[0])("a", parameters=TOOLS[0].parameters))
        text = write(calls)
        assert understood(fed(dialect.parser(known), parts_of(text, cuts))) == expected(calls)

    check()


@pytest.mark.parametrize("name", WRITERS)
def test_no_text_is_too_broken(name: str) -> None:
    """Pieces of calls in any order: nothing is raised, and every cut gives the same."""
    dialect, write = WRITERS[name]
    text = write([("read_file", {"path": 'a"b\\', "count": 3}), ("f", {"options": {"x": [1, "y"]}})])
    shards = st.integers(0, len(text)).flatmap(
        lambda begin: st.integers(begin, min(len(text), begin + 40)).map(lambda end: text[begin:end])
    )
    noise = st.sampled_from(
        [*dialect.special_tokens, '"', "\\", "{", "}", "[", "]", "(", ")", "=", ":", ",", " ", "\n", "x", "<", "ü"]
    )

    @settings(max_examples=150, deadline=None)
    @given(parts=st.lists(shards | noise, max_size=12), cuts=st.lists(st.integers(0, 300), max_size=6))
    def check(parts: list[str], cuts: list[int]) -> None:
        broken = "".join(parts)
        whole = fed(dialect.parser(TOOLS), [broken])
        assert fed(dialect.parser(TOOLS), parts_of(broken, cuts)) == whole
        assert fed(dialect.parser(TOOLS), broken) == whole

    check()
