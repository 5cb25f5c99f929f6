"""Calls that a grammar holds to their tools, in every dialect: whatever is written, its parser reads valid calls."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from gateway.chat.tool_calls.dialect import ToolDialect
from gateway.chat.tool_calls.function_calls import CallSyntax
from gateway.chat.tool_calls.gemma4 import Gemma4
from gateway.chat.tool_calls.gemma_calls import GemmaCalls
from gateway.chat.tool_calls.glm import Glm
from gateway.chat.tool_calls.kimi_k2 import KimiK2
from gateway.chat.tool_calls.kimi_k3 import KimiK3
from gateway.chat.tool_calls.lfm2 import Lfm2
from gateway.chat.tool_calls.literals import Quotes
from gateway.chat.tool_calls.marked_functions import MarkedFunctions
from gateway.chat.tool_calls.minicpm5 import MiniCpm5
from gateway.chat.tool_calls.pythonic import Pythonic
from gateway.chat.tool_calls.qwen3_coder import Qwen3Coder
from gateway.chat.tool_calls.table import DIALECTS
from gateway.chat.tool_calls.tagged_calls import TaggedCalls
from gateway.engine.grammar_compiler import GrammarCompiler
from gateway.engine.grammar_form import llguidance_form
from gateway.errors import UnsupportedParameter
from gateway.generation.request import Tool
from tests.agents_tools import SCHEMAS as AGENTS_SCHEMAS
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
    by_parameters = isinstance(dialect, TaggedCalls | MarkedFunctions | Pythonic) and not isinstance(
        dialect, GemmaCalls
    )
    if by_parameters:
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


class ShortQuotes(Gemma4):
    """From whose strings a random walk comes back."""

    syntax = CallSyntax("{", ":", "}", Quotes(("<",), escapes=False))


@pytest.mark.parametrize("name", AGENTS_SCHEMAS)
def test_gemmas_calls_match_the_schemas_of_agents(name: str, side: Any, compiler: GrammarCompiler) -> None:
    dialect = ShortQuotes()
    schema = AGENTS_SCHEMAS[name]
    tools = [Tool(name, parameters=json.dumps(schema), strict=True)]
    calls = dialect.written(tools, parallel=False)
    assert calls
    grammar = compiler.compile(calls.alone(parallel=False))
    for seed in range(2):
        text = random_answer(
            side, grammar.start(), seed, set(side.tokenizer.all_special_ids), hasten=("<", ",", "}", "]")
        )
        (call,) = understood(read(dialect, text, tools))
        assert isinstance(call, Call), text
        validator_for(schema, Draft202012Validator)(schema).validate(call.arguments)


def test_text_within_cdata_may_hold_the_tag_that_closes_a_value(side: Any, compiler: GrammarCompiler) -> None:
    tool = Tool("f", parameters='{"properties": {"a": {"type": "string"}}, "required": ["a"]}')
    text = '<function name="f"><param name="a"><![CDATA[x</param>y]]></param></function>'
    assert understood(read(MiniCpm5(), text, [tool])) == [Call("f", {"a": "x</param>y"})]
    assert takes(side, compiler, MiniCpm5(), tool, text)
    assert not takes(side, compiler, MiniCpm5(), tool, text.replace("]]>", ""))
    assert takes(side, compiler, MiniCpm5(), tool, text.replace("<![CDATA[x</param>y]]>", "x"))


@pytest.mark.parametrize(
    ("dialect", "first"),
    [
        (KimiK2(), "<|tool_call_begin|>functions.f:{}<|tool_call_argument_begin|>{{}}<|tool_call_end|>"),
        (KimiK3(), '<|open|>call tool="f" index="{}"<|sep|><|close|>call<|sep|>'),
    ],
    ids=["KimiK2", "KimiK3"],
)
def test_calls_are_numbered_on(dialect: ToolDialect, first: str, side: Any, compiler: GrammarCompiler) -> None:
    tool = Tool("f")
    calls = dialect.written([tool], parallel=True)
    assert calls
    grammar = compiler.compile(calls.alone(parallel=True))
    begins, ends = {
        "KimiK2": ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        "KimiK3": ("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
    }[name_of(dialect)]
    number = 0 if isinstance(dialect, KimiK2) else 1
    for numbers, right in (
        ((0, 1, 2), True),
        ((0,), True),
        ((1,), False),
        ((0, 0), False),
        ((0, 2), False),
        (range(12), True),
    ):
        text = begins + "".join(first.format(number + each) for each in numbers) + ends
        draft = [*side.tokenizer.encode(text, add_special_tokens=False), END]
        assert (grammar.start().masks_along(draft)[0] == len(draft)) == right, text


def test_parameters_of_kimi_k3_name_the_type_that_they_have(side: Any, compiler: GrammarCompiler) -> None:
    either = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
    tool = Tool("f", parameters=json.dumps({"properties": {"a": either}, "required": ["a"]}))

    def call(kind: str, value: str) -> str:
        argument = f'<|open|>argument key="a" type="{kind}"<|sep|>{value}<|close|>argument<|sep|>'
        called = f'<|open|>call tool="f" index="1"<|sep|>{argument}<|close|>call<|sep|>'
        return f"<|open|>tools<|sep|>{called}<|close|>tools<|sep|>"

    assert takes(side, compiler, KimiK3(), tool, call("string", "3"))
    assert takes(side, compiler, KimiK3(), tool, call("number", "3"))
    assert not takes(side, compiler, KimiK3(), tool, call("number", "x"))
    assert not takes(side, compiler, KimiK3(), tool, call("boolean", "true"))
