"""Calls whose arguments are not written in JSON: types come from the tools' schemas."""

import json
import time
from typing import Any

import pytest

from gateway.chat.output_parser import CallArguments
from gateway.chat.tool_calls.function_gemma import FunctionGemma
from gateway.chat.tool_calls.gemma4 import Gemma4
from gateway.chat.tool_calls.glm import Glm
from gateway.chat.tool_calls.kimi_k3 import KimiK3
from gateway.chat.tool_calls.lfm2 import Lfm2
from gateway.chat.tool_calls.minicpm5 import MiniCpm5
from gateway.chat.tool_calls.minimax_m2 import MiniMaxM2
from gateway.chat.tool_calls.pythonic import Pythonic
from gateway.chat.tool_calls.qwen3_coder import Qwen3Coder
from gateway.chat.tool_calls.typed_values import ParameterKinds
from gateway.generation.request import Tool
from tests.chat.tool_calls.readings import TOOLS, Call, read, understood

WITH_ODD_NAMES = {"a": "x", "$c": "y", "user.id": 1, "ids[]": [2], "@type": "z"}


def qwen(parameters: str) -> str:
    return f"<tool_call>\n<function=read_file>\n{parameters}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (qwen("<parameter=path>\n12\n</parameter>\n"), [Call("read_file", {"path": "12"})]),
        (qwen("<parameter=path>\nnull\n</parameter>\n"), [Call("read_file", {"path": "null"})]),
        (qwen("<parameter=path>\n  a\n\n</parameter>\n"), [Call("read_file", {"path": "  a\n"})]),
        (qwen("<parameter=path>\n\n</parameter>\n"), [Call("read_file", {"path": ""})]),
        (qwen("<parameter=path>a</parameter>"), [Call("read_file", {"path": "a"})]),
        (qwen("<parameter=note>\nnull\n</parameter>\n"), [Call("read_file", {"note": None})]),
        (qwen("<parameter=note>\nnothing\n</parameter>\n"), [Call("read_file", {"note": "nothing"})]),
        (qwen("<parameter=note>\n5\n</parameter>\n"), [Call("read_file", {"note": "5"})]),
        (qwen("<parameter=deep>\nTrue\n</parameter>\n"), [Call("read_file", {"deep": True})]),
        (qwen("<parameter=count>\nmany\n</parameter>\n"), [Call("read_file", {"count": "many"})]),
        (qwen("<parameter=count>\nNaN\n</parameter>\n"), [Call("read_file", {"count": "NaN"})]),
        (qwen("<parameter=tags>\n['a', None]\n</parameter>\n"), [Call("read_file", {"tags": ["a", None]})]),
        (qwen('<parameter=options>\n{"a": 1}\n</parameter>\n'), [Call("read_file", {"options": {"a": 1}})]),
        (qwen('<parameter=path>\n{"a": 1}\n</parameter>\n'), [Call("read_file", {"path": '{"a": 1}'})]),
        (qwen("<parameter=other>\n[1, 2]\n</parameter>\n"), [Call("read_file", {"other": [1, 2]})]),
        (qwen("<parameter=other>\n[draft] x\n</parameter>\n"), [Call("read_file", {"other": "[draft] x"})]),
        (
            qwen("<parameter=path>\na\n<parameter=count>\n1\n</parameter>\n"),
            [Call("read_file", {"path": "a", "count": 1})],
        ),
        (qwen("<parameter=path>\na\n"), [Call("read_file", {"path": "a"})]),
        ("<function=read_file>\n</function>\n</tool_call> Bye", [Call("read_file", {}), "Bye"]),
        (qwen("words <parameter=path>\na\n</parameter>\n"), [Call("read_file", {"path": "a"}), "words"]),
        ("<tool_call>\nnothing to do\n</tool_call>", ["nothing to do"]),
    ],
)
def test_qwen3_coder(text: str, found: list[Any]) -> None:
    assert understood(read(Qwen3Coder(), text)) == found


def test_glm_takes_calls_without_line_breaks_and_in_json() -> None:
    flat = "<tool_call>read_file<arg_key>path</arg_key><arg_value>a</arg_value></tool_call>"
    assert understood(read(Glm(), flat + flat)) == [Call("read_file", {"path": "a"})] * 2
    assert understood(read(Glm(), "<tool_call>read_file</tool_call>")) == [Call("read_file", {})]
    assert understood(read(Glm(), '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>')) == [
        Call("f", {"a": 1})
    ]
    assert understood(read(Glm(), "<tool_call>I do not know.</tool_call>")) == ["I do not know."]


def test_what_a_tag_says_of_the_type_counts_before_the_schema() -> None:
    text = '<|open|>call tool="f" index="1"<|sep|><|open|>argument key="a &quot;b&quot;" type="string"<|sep|>5'
    text += '<|close|>argument<|sep|><|open|>argument key="c" type="number"<|sep|>5<|close|>argument<|sep|>'
    assert understood(read(KimiK3(), text + "<|close|>call<|sep|>")) == [Call("f", {'a "b"': "5", "c": 5})]


def test_cdata_is_text_even_with_tags_in_it() -> None:
    text = '<function name="read_file"><param name="path"><![CDATA[</param>&<b>]]></param></function>'
    assert understood(read(MiniCpm5(), text)) == [Call("read_file", {"path": "</param>&<b>"})]


def test_a_value_keeps_its_last_line_break_where_the_format_adds_none() -> None:
    text = '<invoke name="read_file">\n<parameter name="path">a\n</parameter>\n</invoke>'
    assert understood(read(MiniMaxM2(), text)) == [Call("read_file", {"path": "a\n"})]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[read_file(path='it\\'s', count=-3)]", [Call("read_file", {"path": "it's", "count": -3})]),
        ('[read_file(path="""a\n"b\\"""", note=None)]', [Call("read_file", {"path": 'a\n"b"', "note": None})]),
        ("[read_file(path='\\x41\\u00e9\\U0001f99c\\d')]", [Call("read_file", {"path": "Aé🦜\\d"})]),
        ("[read_file(path=12, count='5', deep='True')]", [Call("read_file", {"path": "12", "count": 5, "deep": True})]),
        (
            "[read_file(tags=('a', 'b',), options={'x': {1: [True]}})]",
            [Call("read_file", {"tags": ["a", "b"], "options": {"x": {"1": [True]}}})],
        ),
        ("[read_file(count=1_000, ratio=.5)]", [Call("read_file", {"count": 1000, "ratio": 0.5})]),
        ('[read_file(options={"a": true, "b": null})]', [Call("read_file", {"options": {"a": True, "b": None}})]),
        ("[a.b(), c( x = 1 )]", [Call("a.b", {}), Call("c", {"x": 1})]),
        ("<|python_start|>[f(a=1)]<|python_end|>", [Call("f", {"a": 1})]),
        ("See\n[f(a=1)]\nBye", ["See", Call("f", {"a": 1}), "\nBye"]),
        ("[link](http://x) and [x(1)] and a[f(b=1)]", ["[link](http://x) and [x(1)] and a[f(b=1)]"]),
        ("[f(1)]", ["[f(1)]"]),
        ("[f(a", ["[f(a"]),
        ("[f(a=1, oops)] Bye", [Call("f", {"a": 1}), "Bye"]),
        ("[f(a=1, b=, c=2)]", [Call("f", {"a": 1, "c": 2})]),
        ("[f(a=1, b=[1, {'c': <, 'd': 2)]", [Call("f", {"a": 1, "b": [1, {}]})]),
        ("[f(a=1, b=[2, 'x'", [Call("f", '{"a": 1, "b": [2, "x"')]),
        ("[f(a=1, oops\nBye", [Call("f", {"a": 1}), "Bye"]),
        ('[f(a="x", $c="y", user.id=1, ids[]=[2], @type="z")]', [Call("f", WITH_ODD_NAMES)]),
        ('[f($c="y")]', [Call("f", {"$c": "y"})]),
        ("[see(what is = 3)]", ["[see(what is = 3)]"]),
        ("[see('a'=3)]", ["[see('a'=3)]"]),
    ],
)
def test_pythonic(text: str, found: list[Any]) -> None:
    assert understood(read(Pythonic(), text)) == found


def test_marked_calls_have_parameters_of_any_name() -> None:
    text = '<|tool_call_start|>[f(a="x", $c="y", user.id=1, ids[]=[2], @type="z", in words=3)]<|tool_call_end|>'
    assert understood(read(Lfm2(), text)) == [Call("f", WITH_ODD_NAMES | {"in words": 3})]
    text = '<|tool_call>call:f{$c:<|"|>y<|"|>,user.id:1}<tool_call|>'
    assert understood(read(Gemma4(), text)) == [Call("f", {"$c": "y", "user.id": 1})]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{a:<|"|>x<|"|>,b}<tool_call|>', {"a": "x"}),
        ('{a:<|"|>x<|"|>,b<tool_call|>', {"a": "x"}),
        ('{a:<|"|>x<|"|>,b:<tool_call|>', {"a": "x"}),
        ("{a:[1,{b:2<tool_call|>", {"a": [1, {"b": 2}]}),
        ("{a:{b:}}<tool_call|>", {"a": {}}),
        ("{a:{b:,c:1},d:2}<tool_call|>", {"a": {"c": 1}, "d": 2}),
    ],
)
def test_what_a_call_of_gemma_leaves_open_is_closed(written: str, arguments: Any) -> None:
    assert understood(read(Gemma4(), f"<|tool_call>call:f{written} Bye")) == [Call("f", arguments), "Bye"]


def test_half_a_surrogate_pair_stays_valid_utf8() -> None:
    pieces = read(Lfm2(), "<|tool_call_start|>[f(a='\\ud83e')]<|tool_call_end|>")
    assert isinstance(pieces[1], CallArguments)
    assert pieces[1].text.encode() == b'{"a": "\\ud83e"}'


def test_gemma_takes_nested_and_bare_values() -> None:
    text = '<|tool_call>call:read_file{path:<|"|>a "b", {c}<|"|>,options:{x:[1,<|"|>y<|"|>],<|"|>k k<|"|>:null}}'
    assert understood(read(Gemma4(), text)) == [
        Call("read_file", {"path": 'a "b", {c}', "options": {"x": [1, "y"], "k k": None}})
    ]
    text = "<start_function_call>call:read_file{path:a.txt,count:3}<end_function_call>"
    assert understood(read(FunctionGemma(), text)) == [Call("read_file", {"path": "a.txt", "count": 3})]


@pytest.mark.parametrize(
    ("schema", "kinds"),
    [
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"type": "string", "nullable": True}, {"string", "null"}),
        ({"oneOf": [{"type": "integer"}, {"enum": ["auto"]}]}, {"integer", "string"}),
        ({"const": True}, {"boolean"}),
        ({"enum": [1, None]}, {"integer", "number", "null"}),
        ({"$ref": "#/$defs/D"}, {"array"}),
        ({"$ref": "#/$defs/loop"}, None),
        ({"anyOf": [{"$ref": "#/$defs/D"}, {"$ref": "#/$defs/D"}, {"type": "null"}]}, {"array", "null"}),
        ({"type": 5}, None),
        ({"type": [{}, "null"]}, {"null"}),
        (True, None),
    ],
)
def test_kinds_of_a_parameter(schema: Any, kinds: set[str] | None) -> None:
    definitions = {"D": {"type": "array"}, "loop": {"$ref": "#/$defs/loop"}}
    tool = Tool("f", parameters=json.dumps({"properties": {"a": schema}, "$defs": definitions}))
    every = ParameterKinds(TOOLS).of("nobody", "nothing")
    assert ParameterKinds([tool]).of("f", "a") == (kinds or every)


@pytest.mark.parametrize(
    "definition",
    [
        {"anyOf": [{"$ref": "#/$defs/n"}] * 20},
        {"anyOf": [{"anyOf": [{"$ref": f"#/$defs/n/{word}"}] * 20} for word in "abcdefghij"]},
        {"anyOf": [{}] * 100_000},
    ],
)
def test_no_schema_takes_long_to_read(definition: Any) -> None:
    tool = Tool("f", parameters=json.dumps({"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": definition}}))
    kinds = ParameterKinds([tool])
    begin = time.process_time()
    kinds.of("f", "a")
    assert time.process_time() - begin < 0.1
