"""Calls that a grammar holds to their tools, in every dialect: whatever is written, its parser reads valid calls."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gateway.chat.tool_calls.dialect import ToolDialect
from gateway.chat.tool_calls.glm import Glm
from gateway.chat.tool_calls.lfm2 import Lfm2
from gateway.chat.tool_calls.marked_functions import MarkedFunctions
from gateway.chat.tool_calls.pythonic import Pythonic
from gateway.chat.tool_calls.qwen3_coder import Qwen3Coder
from gateway.chat.tool_calls.table import DIALECTS
from gateway.chat.tool_calls.tagged_calls import TaggedCalls
from gateway.engine.grammar_compiler import GrammarCompiler
from gateway.engine.grammar_form import llguidance_form
from gateway.errors import UnsupportedParameter
from gateway.generation.request import Tool
from tests.chat.tool_calls.readings import Call, read, understood
from tests.random_answers import END, SECOND_END, random_answer

WORD = {"type": "string", "maxLength": 8}
SCHEMAS: dict[str, dict[str, Any]] = {
    "read_file": {
        "type": "object",
        "properties": {
            "path": {"type": "string", "minLength": 1, "maxLength": 8},
            "mode": {"enum": ["text", "binary", None, 3]},
            "id": {"type": "string", "pattern": "^[a-z]{2}[0-9]$"},
            "limit": {"type": "integer", "minimum": 1, "maximum": 99},
            "deep": {"type": "boolean"},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2},
        },
        "required": ["path", "mode", "id", "tags"],
        "additionalProperties": False,
        "$defs": {"tag": {"enum": ["a", "b"]}},
    },
    "list_files": {
        "type": "object",
        "properties": {"limit": {"type": "integer", "minimum": 1, "maximum": 99}, "deep": {"type": "boolean"}},
        "additionalProperties": False,
    },
}
TOOLS = [Tool(name, parameters=json.dumps(schema), strict=True) for name, schema in SCHEMAS.items()]
WITHOUT = {"KimiK3", "Gemma4", "FunctionGemma"}
"""Dialects whose calls no grammar writes."""

BEGUN = {"Harmony": "<|channel|>commentary"}
"""Where an answer could begin with reasoning, from which a random walk does not come back."""


@pytest.fixture(scope="module")
def side(demo_folder: Path) -> Any:
    from gateway.engine.model_loader import load_text_side

    return load_text_side(demo_folder)


@pytest.fixture(scope="module")
def compiler(side: Any) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(side.tokenizer, side.vocabulary, frozenset({END, SECOND_END}))
    yield compiler
    compiler.close()


def name_of(dialect: ToolDialect) -> str:
    return type(dialect).__name__


@pytest.mark.parametrize("dialect", DIALECTS, ids=name_of)
def test_what_is_written_is_read_as_valid_calls(dialect: ToolDialect, side: Any, compiler: GrammarCompiler) -> None:
    special = set(side.tokenizer.all_special_ids)
    for parallel in (False, True):
        calls = dialect.written(TOOLS, parallel=parallel)
        if name_of(dialect) in WITHOUT:
            assert calls is None
            continue
        assert calls is not None
        grammar = compiler.compile(calls.alone(parallel=parallel))
        for seed in range(8):
            place, begun = grammar.start(), BEGUN.get(name_of(dialect), "")
            for token in side.tokenizer.encode(begun, add_special_tokens=False):
                place.advance(token)
            text = begun + random_answer(side, place, seed, special, hasten=("\n", "</", "<"))
            found = understood(read(dialect, text, TOOLS))
            assert found
            assert parallel or len(found) == 1
            for call in found:
                assert isinstance(call, Call), text
                Draft202012Validator(SCHEMAS[call.name]).validate(call.arguments)


@pytest.mark.parametrize("dialect", DIALECTS, ids=name_of)
def test_arguments_of_a_shape_that_tags_cannot_enforce_are_refused_or_valid(
    dialect: ToolDialect, side: Any, compiler: GrammarCompiler
) -> None:
    schema = {"anyOf": [SCHEMAS["list_files"], {"type": "object", "maxProperties": 0}]}
    odd = Tool("odd", parameters=json.dumps(schema), strict=True, param="tools[3].function.parameters")
    if isinstance(dialect, TaggedCalls | MarkedFunctions | Pythonic) and name_of(dialect) not in WITHOUT:
        with pytest.raises(UnsupportedParameter, match="anyOf") as caught:
            dialect.written([odd], parallel=False)
        assert caught.value.param == odd.param
    elif calls := dialect.written([odd], parallel=False):
        compiler.compile(calls.alone(parallel=False))


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (Glm(), "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x</arg_value></tool_call>"),
        (Glm(), "<tool_call>f<arg_key>a</arg_key><arg_value>x</arg_value></tool_call>"),
        (Glm(), "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x</arg_value>\n</tool_call>"),
        (Qwen3Coder(), "<tool_call>\n<function=f>\n<parameter=a>x</parameter>\n</function>\n</tool_call>"),
        (Qwen3Coder(), "<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n</function>\n</tool_call>"),
    ],
)
def test_a_call_that_its_reader_has_read_may_end(
    dialect: ToolDialect, text: str, side: Any, compiler: GrammarCompiler
) -> None:
    tool = Tool("f", parameters='{"properties": {"a": {"type": "string"}}, "required": ["a"]}')
    assert understood(read(dialect, text, [tool])) == [Call("f", {"a": "x"})]
    assert takes(side, compiler, dialect, tool, text)


def test_no_value_holds_a_tag_at_which_its_reader_ends_it(side: Any, compiler: GrammarCompiler) -> None:
    tool = Tool("f", parameters='{"properties": {"a": {"type": "string"}}, "required": ["a"]}')
    for tag in ("</function>", "<parameter=b>"):
        value = f"x\n{tag}\n</parameter>"
        text = f"<tool_call>\n<function=f>\n<parameter=a>\n{value}\n</function>\n</tool_call>"
        assert not takes(side, compiler, Qwen3Coder(), tool, text)


def test_optional_parameters_come_in_order_and_once(side: Any, compiler: GrammarCompiler) -> None:
    tool = Tool("f", parameters=json.dumps({"properties": {name: {"type": "integer"} for name in "abc"}}))
    for right in ("", "a=1", "b=1", "c=1", "a=1, b=2", "a=1, c=2", "b=1, c=2", "a=1, b=2, c=3"):
        assert takes(side, compiler, Lfm2(), tool, f"<|tool_call_start|>[f({right})]<|tool_call_end|>"), right
    for wrong in (", a=1", "a=1,", "a=1b=2", "b=1, a=2", "a=1, a=2", "a=1, , c=3"):
        assert not takes(side, compiler, Lfm2(), tool, f"<|tool_call_start|>[f({wrong})]<|tool_call_end|>"), wrong


def test_a_grammar_grows_with_its_optional_parameters_and_no_faster(side: Any, compiler: GrammarCompiler) -> None:
    definitions = {f"type_{number}": {"enum": ["text" * 20]} for number in range(200)}
    properties = {f"parameter_{number}": {"$ref": f"#/$defs/type_{number % 200}"} for number in range(500)}
    tool = Tool("f", parameters=json.dumps({"properties": properties, "$defs": definitions}))
    calls = Lfm2().written([tool], parallel=False)
    assert calls
    assert len(llguidance_form(calls.alone(parallel=False), lambda _: None)) < 200_000
    right, wrong = (f'parameter_3="{word}", parameter_7=null' for word in ("text" * 20, "other"))
    assert not takes(side, compiler, Lfm2(), tool, f"<|tool_call_start|>[f({right})]<|tool_call_end|>")
    right = right.replace("null", f'"{"text" * 20}"')
    assert takes(side, compiler, Lfm2(), tool, f"<|tool_call_start|>[f({right})]<|tool_call_end|>")
    assert not takes(side, compiler, Lfm2(), tool, f"<|tool_call_start|>[f({wrong})]<|tool_call_end|>")


def test_a_definition_is_found_through_another(side: Any, compiler: GrammarCompiler) -> None:
    definitions = {"outer": {"type": "array", "items": {"$ref": "#/$defs/inner"}}, "inner": {"enum": [1]}}
    schema = {"properties": {"a": {"$ref": "#/$defs/outer"}}, "$defs": definitions}
    tool = Tool("f", parameters=json.dumps(schema))
    assert takes(side, compiler, Lfm2(), tool, "<|tool_call_start|>[f(a=[1, 1])]<|tool_call_end|>")
    assert not takes(side, compiler, Lfm2(), tool, "<|tool_call_start|>[f(a=[1, 2])]<|tool_call_end|>")


def test_a_grammar_that_is_too_long_holds_calls_to_less(side: Any, compiler: GrammarCompiler) -> None:
    properties = {f"p{number}": {"enum": [str(number), "x" * 9_000]} for number in range(300)}
    tool = Tool("f", parameters=json.dumps({"properties": properties}))
    assert takes(side, compiler, Lfm2(), tool, '<|tool_call_start|>[f(p3="4")]<|tool_call_end|>')


def takes(side: Any, compiler: GrammarCompiler, dialect: ToolDialect, tool: Tool, text: str) -> bool:
    calls = dialect.written([tool], parallel=False)
    assert calls
    draft = [*side.tokenizer.encode(text, add_special_tokens=False), END]
    return compiler.compile(calls.alone(parallel=False)).start().masks_along(draft)[0] == len(draft)
