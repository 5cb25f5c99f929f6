"""What models do to calls in JSON, right and wrong."""

from typing import Any

import pytest

from gateway.chat.output_parser import CallArguments, CallBegan, Said
from gateway.chat.tool_calls.command_r import CommandR
from gateway.chat.tool_calls.deepseek import DeepSeek
from gateway.chat.tool_calls.hermes import Hermes
from gateway.chat.tool_calls.kimi_k2 import KimiK2
from gateway.chat.tool_calls.llama3_json import Llama3Json
from gateway.chat.tool_calls.mistral import Mistral
from tests.chat.tool_calls.readings import TOOLS, Call, read, understood

CALL = Call("f", {"a": 1})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [CALL]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [CALL]),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', [Call("f", {})]),
        ('<tool_call>{"name": "f", "arguments": ""}</tool_call>', [Call("f", {})]),
        ('<tool_call>{"name": "f"}</tool_call>', [Call("f", {})]),
        ('<tool_call>{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}</tool_call>', [CALL]),
        ('<tool_call>{"id": {"x": [1]}, "name": "f", "parameters": {"a": 1}}</tool_call>', [CALL]),
        ('<tool_call>[{"name": "f", "arguments": {"a": 1}}, {"name": "g"}]</tool_call>', [CALL, Call("g", {})]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}\n{"name": "g"}</tool_call>', [CALL, Call("g", {})]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>\nBye', [CALL, "Bye"]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}}</tool_call>', [CALL]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}<tool_call>{"name": "g"}', [CALL, Call("g", {})]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}\nand words', [CALL, "and words"]),
        (
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>',
            [Call("f", {"a": "</tool_call>"})],
        ),
        ('<tool_call>{"name": "f", "arguments": {"a": "x\ny\tz"}}</tool_call>', [Call("f", {"a": "x\ny\tz"})]),
        ('<tool_call>{"name": "f", "arguments": {"a": }}</tool_call> Bye', [Call("f", '{"a": }'), "Bye"]),
        ('<tool_call>{"name": "f", "arguments": {"a": [1</tool_call> Bye', [Call("f", {"a": [1]}), "Bye"]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1, </tool_call> Bye', [CALL, "Bye"]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1,}}</tool_call>', [CALL]),
        ('<tool_call>{"name": "f", "arguments": {"a": [1, {"b": 2]}}</tool_call>', [Call("f", {"a": [1, {"b": 2}]})]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1]}}</tool_call>', [CALL]),
        ("<tool_call>I cannot.</tool_call>", ["I cannot."]),
        ('<tool_call>{"city": "Rome"}</tool_call>', ['{"city": "Rome"}']),
        ('<tool_call>{"city" "Rome"}</tool_call> Bye', ['{"city" "Rome"} Bye']),
        ("Use <tool_call> for it.", ["Use for it."]),
        ('<tool_call>{"name": "f', []),
        ('<tool_call>{"arguments": {"a": 1}', []),
    ],
)
def test_hermes(text: str, found: list[Any]) -> None:
    assert understood(read(Hermes(), text)) == found


def test_valid_arguments_stay_as_they_were_written() -> None:
    arguments = '{ "a":1.0, "b" :"\\u00e9\\/",\n"c":[ 1e5 ]}'
    assert read(Hermes(), f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>') == [
        CallBegan("f"),
        CallArguments(arguments),
    ]


def test_a_string_is_unwrapped_into_valid_json() -> None:
    inner = '"{\\"a\\": \\"line\\\\nnext \\\\\\"q\\\\\\" \\ud83e\\udd9c \\\\ud83e\\\\udd9c\\"}"'
    assert understood(read(Hermes(), f'<tool_call>{{"name": "f", "arguments": {inner}}}</tool_call>')) == [
        Call("f", {"a": 'line\nnext "q" 🦜 🦜'})
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"name": "read_file", "parameters": {"path": "a"}}', [Call("read_file", {"path": "a"})]),
        ('{"name": "unknown", "parameters": {"a": 1}}', [Call("unknown", {"a": 1})]),
        ('Sure.\n\n{"type": "function", "name": "f", "parameters": {"a": 1}}', ["Sure.", CALL]),
        ('{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}', [CALL, Call("g", {})]),
        ('<|python_start|>{"name": "f", "parameters": {"a": 1}}<|python_end|>', [CALL]),
        ('{"name": "Ann", "age": 3}', ['{"name": "Ann", "age": 3}']),
        ('{"name": "Ann"}', ['{"name": "Ann"}']),
        ('{"name": "Ann', ['{"name": "Ann']),
        ('Like {"name": "f", "parameters": {}} this', ['Like {"name": "f", "parameters": {}} this']),
        ("{% if x %}\n  {y}\n", ["{% if x %}\n  {y}\n"]),
        ('<|python_tag|>search.call(query="x")', ['search.call(query="x")']),
    ],
)
def test_llama3(text: str, found: list[Any]) -> None:
    assert understood(read(Llama3Json(), text)) == found


def test_json_that_is_no_call_is_not_held_to_its_end() -> None:
    parser = Llama3Json().parser(TOOLS)
    assert parser.feed('{"title": "x", ') != []
    parser = Llama3Json().parser(TOOLS)
    assert parser.feed('{"name": "Ann", "age": 3') != []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[TOOL_CALLS]f[ARGS]{"a": 1}', [CALL]),
        ('[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"a": 1}', [CALL]),
        ('[TOOL_CALLS]f{"a": 1}', [CALL]),
        ('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "x"}]', [CALL]),
        ('Sure.[TOOL_CALLS]f[ARGS]{"a": 1} Bye', ["Sure.", CALL, " Bye"]),
        ("[TOOL_CALLS]", []),
    ],
)
def test_mistral(text: str, found: list[Any]) -> None:
    assert understood(read(Mistral(), text)) == found


def test_kimi_names_a_function_with_dots_and_colons() -> None:
    text = "<|tool_call_begin|>functions.a.b:c:12<|tool_call_argument_begin|>{}<|tool_call_end|>"
    assert understood(read(KimiK2(), text)) == [Call("a.b:c", {})]


def test_a_call_without_arguments() -> None:
    text = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜><｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    assert understood(read(DeepSeek(), text)) == [Call("f", {})]


def test_saying_ends_where_a_call_begins() -> None:
    parser = Hermes().parser(TOOLS)
    assert parser.saying
    parser.feed('Words <tool_call>{"name": "f"')
    assert not parser.saying
    parser.feed("}</tool_call>")
    assert parser.feed("Bye") == [Said(" Bye")]
    assert parser.saying


def test_stray_marks_are_never_said() -> None:
    assert understood(read(Hermes(), "One</tool_call> two\n</tool_call>")) == ["One two"]
    text = "<｜tool▁call▁begin｜>no<｜tool▁sep｜>call is here<｜tool▁call▁end｜>"
    assert understood(read(DeepSeek(), text)) == ["no call is here"]


def test_command_r_may_leave_a_comma_too_many() -> None:
    text = '<|START_ACTION|>[{"tool_name": "f", "parameters": {"a": "x",}}]<|END_ACTION|>'
    assert understood(read(CommandR(), text)) == [Call("f", {"a": "x"})]
