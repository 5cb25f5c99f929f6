"""Grammars and the demo model's tokenizer: random answers that the masks allow, and grammars that must be refused."""

import gc
import json
import random
import re
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gateway.engine.constraint import CompiledGrammar, allows
from gateway.engine.grammar_compiler import COMPILED_GRAMMARS_KEPT, GrammarCompiler
from gateway.errors import GenerationFailed, GrammarsUnavailable, InvalidRequest, UnsupportedParameter
from gateway.generation.grammar import Exactly, FreeText, InOrder, OneOf, Preferably, Repeated, Shape
from gateway.generation.request import Grammar
from tests.random_answers import END, SECOND_END, random_answer, tokens_of


@pytest.fixture(scope="module")
def side(demo_folder: Path) -> Any:
    from gateway.engine.model_loader import load_text_side

    return load_text_side(demo_folder)


@pytest.fixture(scope="module")
def compiler(side: Any) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(side.tokenizer, side.vocabulary, frozenset({END, SECOND_END}))
    yield compiler
    compiler.close()


@pytest.fixture(scope="module")
def special_tokens(side: Any) -> set[int]:
    return set(side.tokenizer.all_special_ids)


def schema_grammar(schema: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(schema))


def text_tokens(side: Any, text: str) -> list[int]:
    tokens: list[int] = side.tokenizer.encode(text, add_special_tokens=False)
    return tokens


def accepts(side: Any, grammar: CompiledGrammar, text: str) -> bool:
    draft = [*text_tokens(side, text), END]
    return grammar.start().masks_along(draft)[0] == len(draft)


def arguments(properties: dict[str, Any], required: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    } | more


STRING = {"type": "string", "maxLength": 20}
SCHEMAS: dict[str, Any] = {
    "weather": arguments({"city": STRING, "unit": {"enum": ["celsius", "kelvin"]}}, ["city", "unit"]),
    "read_file": arguments(
        {
            "path": {"type": "string", "minLength": 1, "maxLength": 30, "description": "absolute path"},
            "offset": {"type": "integer", "minimum": 0, "default": 0},
            "limit": {"type": "integer", "minimum": 1, "maximum": 2000},
        },
        ["path"],
        **{"$schema": "http://json-schema.org/draft-07/schema#", "title": "ReadFile"},
    ),
    "edits": arguments(
        {"edits": {"type": "array", "items": arguments({"old": STRING, "new": STRING}, ["old", "new"]), "minItems": 1}},
        ["edits"],
    ),
    "optional_any_of": arguments({"limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}}),
    "type_list": arguments({"value": {"type": ["string", "null", "boolean"], "maxLength": 9}}, ["value"]),
    "one_of_by_const": {
        "oneOf": [
            arguments({"kind": {"const": "circle"}, "radius": {"type": "number", "exclusiveMinimum": 0}}, ["kind"]),
            arguments({"kind": {"const": "square"}, "side": {"type": "number", "minimum": 1}}, ["kind", "side"]),
        ]
    },
    "one_of_by_type": arguments({"id": {"oneOf": [{"type": "string", "maxLength": 8}, {"type": "integer"}]}}, ["id"]),
    "refs": {
        "$defs": {"point": arguments({"x": {"type": "number"}, "y": {"type": "number"}}, ["x", "y"])},
        "type": "array",
        "items": {"$ref": "#/$defs/point"},
        "minItems": 2,
        "maxItems": 3,
    },
    "recursive": {
        "$defs": {
            "node": arguments(
                {"name": {"enum": ["a", "b"]}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
                ["name"],
            )
        },
        "$ref": "#/$defs/node",
    },
    "pattern": arguments({"id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"}}, ["id"]),
    "unanchored_pattern": arguments({"id": {"type": "string", "pattern": "x[0-9]y", "maxLength": 12}}, ["id"]),
    "date": arguments({"on": {"type": "string", "format": "date"}}, ["on"]),
    "date_time": arguments({"at": {"type": "string", "format": "date-time"}}, ["at"]),
    "uuid": arguments({"id": {"type": "string", "format": "uuid"}}, ["id"]),
    "email": arguments({"to": {"type": "string", "format": "email", "maxLength": 30}}, ["to"]),
    "ipv4": arguments({"host": {"type": "string", "format": "ipv4"}}, ["host"]),
    "lengths": arguments({"name": {"type": "string", "minLength": 3, "maxLength": 6}}, ["name"]),
    "numbers": arguments(
        {
            "ratio": {"type": "number", "minimum": 0, "maximum": 1},
            "signed": {"type": "integer", "minimum": -20, "exclusiveMaximum": 20},
            "step": {"type": "integer", "multipleOf": 5, "minimum": 0},
        },
        ["ratio", "signed", "step"],
    ),
    "mixed_enum": arguments({"level": {"enum": [1, 2.5, "high", None, True, ["a"], {"b": 1}]}}, ["level"]),
    "const": arguments({"version": {"const": {"major": 1, "tags": ["é", 'a"b']}}}, ["version"]),
    "nested": arguments(
        {
            "query": arguments(
                {"filter": arguments({"tags": {"type": "array", "items": STRING, "maxItems": 2}}, ["tags"])}, ["filter"]
            )
        },
        ["query"],
    ),
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 3},
    "pattern_properties": {
        "type": "object",
        "patternProperties": {"^x_[a-z]{1,3}$": {"type": "boolean"}},
        "additionalProperties": False,
    },
    "tuple": {"type": "array", "prefixItems": [STRING, {"type": "integer"}], "items": False, "minItems": 2},
    "all_of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]
    },
    "unicode_keys": arguments({"größe": {"type": "integer"}, "名前": {"enum": ["é", "👋🏽"]}}, ["größe", "名前"]),
    "special_token_text": arguments({"marker": {"enum": ["<|im_end|> x", "<|im_start|>"]}}, ["marker"]),
    "anything": {},
    "format_as_annotation": arguments(
        {"format": {"type": "string", "format": "path", "maxLength": 9}, "n": {"type": "integer", "format": "uint8"}},
        ["format", "n"],
    ),
    "format_as_data": arguments({"a": {"const": {"format": "path"}}, "b": {"enum": [{"format": "int32"}]}}, ["a", "b"]),
    "unknown_dialect": arguments(
        {"path": {"$schema": "http://json-schema.org/schema#", "type": "string", "maxLength": 9}},
        ["path"],
        **{"$schema": "https://json-schema.org/draft-07/schema#"},
    ),
    "record": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "integer"}},
    "record_of_enum": {
        "type": "object",
        "propertyNames": {"type": "string", "enum": ["low", "mid", "high"]},
        "additionalProperties": {"type": "integer", "minimum": 0},
        "required": ["low"],
    },
    "names_beside_properties": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}},
        "propertyNames": {"enum": ["a", "c"]},
        "additionalProperties": {"enum": [1, 2]},
    },
    "names_of_a_pattern": {
        "type": "object",
        "propertyNames": {"pattern": "^[a-z]{1,4}$"},
        "additionalProperties": {"type": ["boolean", "null"]},
    },
    "one_name": {"type": "object", "propertyNames": {"const": "only"}, "required": ["only"]},
    "no_further_names": arguments({"a": {"type": "boolean"}}, ["a"], propertyNames={"enum": ["a", "b"]}),
    "nested_names": {
        "type": "array",
        "items": {"anyOf": [{"type": "null"}, {"type": "object", "propertyNames": {"enum": ["x"]}}]},
        "maxItems": 2,
    },
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_match_their_schema(name: str, side: Any, compiler: GrammarCompiler, special_tokens: set[int]) -> None:
    validator = Draft202012Validator(SCHEMAS[name], format_checker=Draft202012Validator.FORMAT_CHECKER)
    grammar = compiler.compile(schema_grammar(SCHEMAS[name]))
    for seed in range(4):
        text = random_answer(side, grammar.start(), seed, special_tokens)
        validator.validate(json.loads(text))


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]},
        arguments({"at": {"oneOf": [{"type": "string", "pattern": "^a"}, {"type": "string", "maxLength": 5}]}}, ["at"]),
    ],
)
def test_overlapping_alternatives_of_one_of_are_those_of_any_of(
    schema: Any, side: Any, compiler: GrammarCompiler, special_tokens: set[int]
) -> None:
    """That an answer matches no second one is beyond a grammar."""
    validator = Draft202012Validator(json.loads(json.dumps(schema).replace("oneOf", "anyOf")))
    grammar = compiler.compile(schema_grammar(schema))
    for seed in range(4):
        validator.validate(json.loads(random_answer(side, grammar.start(), seed, special_tokens)))


def test_names_that_a_schema_rules_out_are_not_accepted(side: Any, compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(schema_grammar(SCHEMAS["names_beside_properties"]))
    assert accepts(side, grammar, '{"a": true, "c": 2}')
    for text in ('{"b": null}', '{"c": 3}', '{"d": 1}', '{"a": 1}'):
        assert not accepts(side, grammar, text), text


def test_a_json_object_is_any_object_and_nothing_else(
    side: Any, compiler: GrammarCompiler, special_tokens: set[int]
) -> None:
    grammar = compiler.compile(Grammar("json_object"))
    for seed in range(6):
        assert isinstance(json.loads(random_answer(side, grammar.start(), seed, special_tokens)), dict)
    value: dict[str, Any] = {"a": [1, -2.5e3, None, True, {"b": {}}], "é": "👋🏽\n", "c": []}
    assert accepts(side, grammar, json.dumps(value, ensure_ascii=False))
    for text in ("[1]", '"a"', "1", ' {"a": 1}', '{"a": 1} ', '{"a":  1}', '{\n"a": 1}', '{"a": 1'):
        assert not accepts(side, grammar, text), text


def test_the_form_of_json_is_not_the_clients_to_choose(side: Any, compiler: GrammarCompiler) -> None:
    schema = {"type": "object", "x-guidance": {"whitespace_pattern": "[ ]*", "lenient": True}}
    assert not accepts(side, compiler.compile(schema_grammar(schema)), '{   "a": 1}')
    with pytest.raises(InvalidRequest):
        compiler.compile(schema_grammar(schema | {"not": {}}))


@pytest.mark.parametrize(
    "pattern",
    [r"[a-z]{3}-\d{2,4}", r"^(yes|no)$", r"(?i)hello( world)?", r"a/b\n[^x]{1,5}", "[é👋]{2}", "(ab|a)(c|bcd)", "x*"],
)
def test_answers_match_their_regular_expression(
    pattern: str, side: Any, compiler: GrammarCompiler, special_tokens: set[int]
) -> None:
    grammar = compiler.compile(Grammar("regex", pattern))
    for seed in range(4):
        text = random_answer(side, grammar.start(), seed, special_tokens)
        assert re.fullmatch(pattern, text), text


def test_an_answer_is_one_of_the_choices(side: Any, compiler: GrammarCompiler, special_tokens: set[int]) -> None:
    choices = ["yes", "yes, sir", "no", 'a "quoted"\n\\ one', "é 👋🏽", "<|im_end|>"]
    grammar = compiler.compile(Grammar("choice", json.dumps(choices)))
    found = {random_answer(side, grammar.start(), seed, special_tokens) for seed in range(40)}
    assert found == set(choices)


def test_a_lark_grammar_is_followed(side: Any, compiler: GrammarCompiler, special_tokens: set[int]) -> None:
    source = 'start: NAME ("=" NUMBER)?\nNAME: /[a-z]{1,8}/\nNUMBER: /[0-9]{1,4}/'
    grammar = compiler.compile(Grammar("lark", source))
    for seed in range(8):
        assert re.fullmatch("[a-z]{1,8}(=[0-9]{1,4})?", random_answer(side, grammar.start(), seed, special_tokens))


def test_masks_along_a_draft_are_those_of_single_steps(side: Any, compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(schema_grammar(SCHEMAS["weather"])).start()
    good = [*text_tokens(side, '{"city": "Zürich 👋🏽", "unit": "kelvin"}'), END]
    for wrong_at in (None, 0, 1, 5, len(good) - 1):
        draft = [*good, END, 5]
        if wrong_at is not None:
            draft[wrong_at] = SECOND_END if wrong_at < len(good) - 1 else 5
        before = constraint.mask()
        accepted, masks = constraint.masks_along(draft)
        assert accepted == (len(good) if wrong_at is None else wrong_at)
        assert len(masks) == accepted + 1
        assert np.array_equal(constraint.mask(), before)
        stepwise = compiler.compile(schema_grammar(SCHEMAS["weather"])).start()
        for mask, token in zip(masks, [*draft[:accepted], None], strict=True):
            assert np.array_equal(stepwise.mask(), mask)
            if token is not None:
                stepwise.advance(token)
    for token in good:  # the place has not moved at all
        constraint.advance(token)
    assert tokens_of(constraint.mask()) == [SECOND_END, END]


def test_forced_tokens_are_the_masks_only_choice(side: Any, compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(schema_grammar(SCHEMAS["special_token_text"])).start()
    forced = constraint.forced(100)
    assert side.tokenizer.decode(forced) == '{"marker": "<|im_'
    assert constraint.forced(2) == forced[:2]
    accepted, masks = constraint.masks_along(forced)
    assert accepted == len(forced)
    assert [tokens_of(mask) for mask in masks[:-1]] == [[token] for token in forced]
    assert len(tokens_of(masks[-1])) > 1
    for token in forced:
        constraint.advance(token)
    assert constraint.forced(100) == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_mask_allows_what_llguidance_does_not(
    name: str, side: Any, compiler: GrammarCompiler, special_tokens: set[int]
) -> None:
    """Also along a forced text, where masks are known without asking; there each has one token."""
    from gateway.engine import constraint as module

    constraint = compiler.compile(schema_grammar(SCHEMAS[name])).start()
    choose = random.Random(3)
    for _ in range(60):
        mask = constraint.mask()
        raw = np.frombuffer(constraint._matcher.deep_copy().compute_bitmask(), "<u4")[: mask.size]
        allowed = [token for token in tokens_of(mask) if token not in (END, SECOND_END)]
        assert all(module.allows(raw, token) for token in allowed)
        forced = constraint.forced(3)
        assert not forced or tokens_of(mask) == forced[:1]
        if not allowed:
            break
        constraint.advance(choose.choice(allowed))


def test_a_long_forced_text_is_written_in_tokens_once(side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is looked at on the way; on a CPU 20,000 characters take 5 ms."""
    from gateway.engine.grammar_tokenizer import _TextTokens

    written = 0
    write = _TextTokens.__call__

    def counting(tokens: _TextTokens, text: str) -> list[int]:
        nonlocal written
        written += len(text)
        return write(tokens, text)

    monkeypatch.setattr(_TextTokens, "__call__", counting)
    literal = "all work and no play " * 100
    compiler = GrammarCompiler(side.tokenizer, side.vocabulary, frozenset({END, SECOND_END}))
    grammar = compiler.compile(schema_grammar({"anyOf": [{"const": literal}, {"const": 5}]}))
    compiler.close()
    written = 0
    constraint = grammar.start()
    for token in text_tokens(side, f'"{literal}"'):
        assert allows(constraint.mask(), token)
        constraint.masks_along(constraint.forced(24))
        constraint.advance(token)
    assert tokens_of(constraint.mask()) == [SECOND_END, END]
    assert written < 3 * len(literal)


def test_rows_of_a_grammar_do_not_know_each_other(side: Any, compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(Grammar("choice", '["yes", "no"]'))
    first, second = grammar.start(), grammar.start()
    before = second.mask()
    first.advance(text_tokens(side, "yes")[0])
    assert tokens_of(first.mask()) == [SECOND_END, END]
    assert np.array_equal(second.mask(), before)


def test_a_token_that_cannot_follow_fails_that_row_alone(side: Any, compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(Grammar("choice", '["yes"]'))
    for token in (text_tokens(side, "no")[0], END):
        constraint = grammar.start()
        with pytest.raises(GenerationFailed):
            constraint.advance(token)
    constraint = grammar.start()
    for token in (*text_tokens(side, "yes"), END):
        constraint.advance(token)
    with pytest.raises(GenerationFailed):
        constraint.advance(5)
    assert grammar.start().mask().any()


def test_a_grammar_too_complex_for_its_answer_fails_the_row(side: Any, compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(Grammar("lark", "start: e\ne: e e e | e e | A | B\nA: /[ab]/\nB: /[bc]/")).start()
    token = text_tokens(side, "b")[0]

    def answer_at_length() -> None:
        for _ in range(300):
            constraint.advance(token)
            constraint.mask()

    with pytest.raises(GenerationFailed, match="kept within its grammar"):
        answer_at_length()


def test_a_lexer_does_not_grow_without_end(side: Any, compiler: GrammarCompiler) -> None:
    """Which letter was 25 letters ago is a state of its own for every answer; each takes memory."""
    constraint = compiler.compile(Grammar("regex", "([ab]*a[ab]{24}c?)*")).start()
    letters = [text_tokens(side, letter)[0] for letter in "ab"]
    choose = random.Random(1)

    def answer_at_length() -> None:
        for _ in range(50_000):
            constraint.mask()
            constraint.advance(choose.choice(letters))

    with pytest.raises(GenerationFailed, match="too many states"):
        answer_at_length()


def test_only_the_latest_grammars_are_kept(compiler: GrammarCompiler) -> None:
    grammars = [Grammar("regex", f"[x-z]{{{count}}}") for count in range(2 * COMPILED_GRAMMARS_KEPT)]
    compiled = [weakref.ref(compiler.compile(grammar)) for grammar in grammars]
    gc.collect()
    assert [one() is not None for one in compiled] == [False] * COMPILED_GRAMMARS_KEPT + [True] * COMPILED_GRAMMARS_KEPT


def test_a_compiled_grammar_is_kept_and_may_come_from_any_thread(compiler: GrammarCompiler) -> None:
    grammars = [Grammar("regex", f"[a-z]{{{count}}}") for count in range(1, 9)] * 3
    with ThreadPoolExecutor(4) as executor:
        compiled = list(executor.map(compiler.compile, grammars))
    assert all(one.start().mask().any() for one in compiled)
    assert compiler.compile(grammars[0]) is compiler.compile(grammars[0])


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (schema_grammar({"type": "strin"}), "JSON schema cannot be used: Invalid type: strin"),
        (schema_grammar({"type": "array", "uniqueItems": True, "contains": {}}), "'contains', 'uniqueItems'"),
        (schema_grammar({"properties": {"a": {"not": {}}}}), "cannot enforce: 'not'"),
        (schema_grammar({"propertyNames": {"minLength": 3}}), "'propertyNames'"),
        (schema_grammar({"propertyNames": {"type": "integer"}}), "'propertyNames'"),
        (schema_grammar({"propertyNames": {"pattern": "a"}, "properties": {"b": {}}}), "'propertyNames'"),
        (schema_grammar({"propertyNames": {"pattern": "a", "enum": ["a"]}}), "'propertyNames'"),
        (schema_grammar({"propertyNames": {"enum": ["a"]}, "patternProperties": {"b": {}}}), "'propertyNames'"),
        (schema_grammar({"anyOf": [{"items": [{"not": {"format": "path"}}]}]}), "'not'"),
        (schema_grammar({"$ref": "https://example.com/x.json"}), "example.com"),
        (schema_grammar({"$ref": "#/$defs/none"}), "does not exist"),
        (schema_grammar({"$ref": "#"}), "no text matches it"),
        (schema_grammar(False), "'not'"),
        (schema_grammar([]), "must be a JSON object"),
        (Grammar("json_schema", "{bad"), "JSON schema cannot be used: Expecting property name"),
        (Grammar("json_schema", '{"const": "\\ud800"}'), "JSON schema cannot be used"),
        (Grammar("regex", "a(b"), "regular expression cannot be used: unclosed group"),
        (Grammar("regex", "(?=a)b"), "look-around"),
        (Grammar("regex", r"(a)\1"), "backreferences"),
        (Grammar("regex", "\ud800"), "regular expression cannot be used"),
        (Grammar("regex", r"[^\s\S]"), "no text matches it"),
        (Grammar("lark", "start: foo"), 'unknown name: "foo"'),
        (Grammar("lark", 'foo: "a"'), "no start rule"),
        (Grammar("lark", ""), "no start rule"),
        (Grammar("choice", "[]"), "list of choices cannot be used: it must have one string or more"),
        (Grammar("choice", '["a", 1]'), "nothing else"),
        (Grammar("choice", '"a"'), "nothing else"),
        (Grammar("choice", "["), "list of choices cannot be used"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused_with_the_reason(
    grammar: Grammar, reason: str, compiler: GrammarCompiler
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        compiler.compile(grammar, "tools[0].function.parameters")
    assert reason in str(raised.value)
    assert "verbose" not in str(raised.value)
    assert len(str(raised.value)) < 400
    assert raised.value.param == "tools[0].function.parameters"


def chained_rules(count: int) -> str:
    return "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(count)) + f'r{count}: "a"'


HOSTILE: dict[str, Grammar] = {
    "nested schema": Grammar("json_schema", '{"properties":{"a":' * 5000 + "{}" + "}}" * 5000),
    "huge schema": Grammar("json_schema", '{"enum":["' + "a" * 1_000_000 + '"]}'),
    "many properties": schema_grammar({"properties": {f"p{i}": {} for i in range(8000)}}),
    "exponential schema": schema_grammar(
        {"allOf": [{"anyOf": [{"properties": {f"{n}{i}": {"type": n}}} for n in ("array", "null")]} for i in range(9)]}
    ),
    "patterns": schema_grammar({"type": "string", "allOf": [{"pattern": f"a.{{{i}}}b"} for i in range(0, 90, 3)]}),
    "multiple": schema_grammar({"type": "integer", "multipleOf": 1_000_003}),
    "great lengths": schema_grammar(
        {"type": "array", "items": {"type": "string", "minLength": 10**9}, "minItems": 10**9}
    ),
    "huge number": Grammar("json_schema", '{"minimum": ' + "9" * 10_000 + "}"),
    "repetitions": Grammar("regex", "((((a{1,100}){1,100}){1,100}){1,100})"),
    "nested groups": Grammar("regex", "(" * 50_000 + "a" + ")*" * 50_000),
    "intersections": Grammar("lark", "start: A\nA: " + " & ".join(f"/(.*a.{{{i}}}b.*)/" for i in range(20))),
    "chained rules": Grammar("lark", chained_rules(10_000)),
    "nested lark": Grammar("lark", "start: " + "(" * 50_000 + '"a"' + ")" * 50_000),
    "many choices": Grammar("choice", json.dumps([f"option {i}" for i in range(10_000)])),
    "too many choices": Grammar("choice", json.dumps([f"option {i}" for i in range(100_000)])),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_is_compiled_or_refused_soon(name: str, compiler: GrammarCompiler) -> None:
    started = time.process_time()
    try:
        compiler.compile(HOSTILE[name]).start().mask()
    except InvalidRequest as refusal:
        assert len(str(refusal)) < 400  # noqa: PT017 - either outcome is fine
    assert time.process_time() - started < 1
    assert compiler.compile(Grammar("choice", '["still here"]')).start().mask().any()


def test_a_schema_of_hundreds_of_properties_is_fine(side: Any, compiler: GrammarCompiler) -> None:
    schema = arguments({f"property_{i}": {"type": "string"} for i in range(400)})
    assert accepts(side, compiler.compile(schema_grammar(schema)), '{"property_7": "a", "property_390": "b"}')


def test_a_model_without_an_end_token_cannot_be_held_to_a_grammar(side: Any) -> None:
    with pytest.raises(UnsupportedParameter, match="no end token"):
        GrammarCompiler(side.tokenizer, side.vocabulary, frozenset()).compile(Grammar("json_object"))


def test_tokens_beyond_the_models_vocabulary_are_never_allowed(side: Any, special_tokens: set[int]) -> None:
    compiler = GrammarCompiler(side.tokenizer, 1001, frozenset({END, 40_000}))
    constraint = compiler.compile(Grammar("json_object")).start()
    compiler.close()
    assert constraint.mask().size == 32
    for token in text_tokens(side, '{"'):
        if token < 1001:
            constraint.advance(token)
    assert max(tokens_of(constraint.mask())) < 1001


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 4), width=st.integers(1, 100), words=st.integers(1, 4))
def test_masks_are_applied_as_numpy_would(data: st.DataObject, rows: int, width: int, words: int) -> None:
    import mlx.core as mx

    from gateway.engine.token_masks import apply_masks

    slots = data.draw(st.lists(st.integers(0, rows - 1), unique=True))
    generator = np.random.default_rng(data.draw(st.integers(0, 999)))
    masks = [generator.integers(0, 2**32, words, dtype=np.uint32) for _ in slots]
    logits = generator.normal(size=(rows, width)).astype(np.float32)
    expected = logits.copy()
    for slot, mask in zip(slots, masks, strict=True):
        for token in range(width):
            if not allows(mask, token):
                expected[slot, token] = -np.inf
    for dtype in (mx.float32, mx.bfloat16):
        given_logits = mx.array(logits).astype(dtype)
        result = apply_masks(given_logits, slots, masks)
        assert result.dtype == dtype
        assert np.array_equal(
            np.array(given_logits.astype(mx.float32)), np.array(mx.array(logits).astype(dtype).astype(mx.float32))
        )
        assert mx.array_equal(result, mx.array(expected).astype(dtype))


def test_a_trial_process_that_is_stopped_is_not_the_grammars_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from gateway.engine import grammar_trial

    monkeypatch.setattr(grammar_trial, "ANSWER_SECONDS", 0.2)
    trial = grammar_trial.GrammarTrial()
    form = json.dumps({"grammars": [{"json_schema": {"type": "null"}}]})
    assert trial.why_refused(form) == ""
    assert trial._child
    trial._child.send_signal(signal.SIGSTOP)
    with pytest.raises(GrammarsUnavailable, match="did not answer"):
        trial.why_refused(form)
    assert trial.why_refused(form) == ""
    trial.close()


def test_a_trial_process_that_cannot_start_is_not_the_grammars_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from gateway.engine import grammar_trial

    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(GrammarsUnavailable, match="status 1"):
        grammar_trial.GrammarTrial().why_refused("{}")


# --- answers composed of parts ---------------------------------------------------------------------------

SPECIAL, START = "<|im_start|>", 1
JSON_LIST = schema_grammar({"type": "array", "maxItems": 0})


def fits(compiler: GrammarCompiler, shape: Shape, tokens: Sequence[int]) -> bool:
    """Whether these tokens are a whole answer."""
    return compiler.compile(shape).start().masks_along([*tokens, END])[0] == len(tokens) + 1


def test_a_mark_that_is_a_special_token_is_that_token_alone(side: Any, compiler: GrammarCompiler) -> None:
    spelled = [token for letter in SPECIAL for token in text_tokens(side, letter)]
    for shape in (
        InOrder((Exactly(SPECIAL), JSON_LIST)),
        InOrder((FreeText(until=SPECIAL), JSON_LIST)),
        Repeated(InOrder((FreeText(until=SPECIAL), JSON_LIST))),
    ):
        assert fits(compiler, shape, [START, *text_tokens(side, "[]")])
        assert not fits(compiler, shape, [*spelled, *text_tokens(side, "[]")])
    assert fits(compiler, FreeText(without=(SPECIAL,)), text_tokens(side, "Hello < im"))
    assert not fits(compiler, FreeText(without=(SPECIAL,)), [START])


def test_a_mark_of_text_counts_in_any_spelling(side: Any, compiler: GrammarCompiler) -> None:
    shape = InOrder((FreeText(until="<a>"), JSON_LIST))
    for spelling in (["x<a>[]"], ["x<", "a", ">[]"], ["x", "<", "a", ">", "[", "]"]):
        tokens = [token for text in spelling for token in text_tokens(side, text)]
        assert fits(compiler, shape, tokens), spelling
    assert not fits(compiler, shape, text_tokens(side, "x<a> and <a>[]"))


def test_a_text_holds_and_begins_with_no_mark_that_is_excluded(side: Any, compiler: GrammarCompiler) -> None:
    shape = FreeText(without=("<a/>",), not_beginning=("[b]", "c.\n"))
    for text, right in {
        "": True,
        "<a": True,
        "x <a/> y": False,
        "[b": True,
        "x [b]": True,
        "[b] x": False,
        " \n[b] x": False,
        "c.\n": False,
        "cx\n": True,
    }.items():
        assert fits(compiler, shape, text_tokens(side, text)) == right, text


@pytest.mark.parametrize("closing", ["</end>", SPECIAL])
def test_a_text_is_closed_when_its_tokens_are_spent(side: Any, compiler: GrammarCompiler, closing: str) -> None:
    mark = text_tokens(side, closing) if closing != SPECIAL else [START]
    for opening in ("", "<b>"):
        text = FreeText(until=closing, most_tokens=3)
        shape: Shape = InOrder((text, JSON_LIST))
        if opening:
            shape = OneOf((InOrder((Exactly(opening), text, JSON_LIST)), FreeText(not_beginning=(opening,))))
        place = compiler.compile(shape).start()
        for token in text_tokens(side, opening):
            place.advance(token)
        for token in text_tokens(side, " one two three"):
            assert allows(place.mask(), token)
            assert not place.forced(1)
            place.advance(token)
        assert place.forced(20)[: len(mark)] == mark
        for token in [*mark, *text_tokens(side, "[]")]:
            assert allows(place.mask(), token)
            place.advance(token)
        assert tokens_of(place.mask()) == [SECOND_END, END]


def test_a_mark_that_had_begun_is_completed(side: Any, compiler: GrammarCompiler) -> None:
    place = compiler.compile(InOrder((FreeText(until="</end>", most_tokens=2), JSON_LIST))).start()
    for token in text_tokens(side, "x</"):
        place.advance(token)
    assert side.tokenizer.decode(place.forced(20)).startswith("end>")


def test_a_character_that_had_begun_is_completed_before_the_mark(side: Any, compiler: GrammarCompiler) -> None:
    bird = text_tokens(side, "🦜")
    assert len(bird) > 2
    place = compiler.compile(InOrder((FreeText(until="</end>", most_tokens=1), JSON_LIST))).start()
    for token in bird:
        assert not place.forced(1)
        place.advance(token)
    assert side.tokenizer.decode(place.forced(20)).startswith("</end>")


def test_a_text_that_is_closed_in_time_has_no_limit_behind_it(side: Any, compiler: GrammarCompiler) -> None:
    shape: Shape = InOrder((FreeText(until="</end>", most_tokens=3), FreeText()))
    assert fits(compiler, shape, text_tokens(side, "a</end>" + 20 * " word"))
    shape = OneOf(
        (InOrder((Exactly("<b>"), FreeText(until="</end>", most_tokens=3))), FreeText(not_beginning=("<b>",)))
    )
    assert fits(compiler, shape, text_tokens(side, "<i>" + 20 * " word"))


def test_alternatives_that_begin_alike_are_told_apart_later(side: Any, compiler: GrammarCompiler) -> None:
    schemas = [{"type": "object", "properties": {"a": {"const": value}}, "required": ["a"]} for value in (1, "x")]
    shape = OneOf(tuple(schema_grammar(schema) for schema in schemas))
    for text, right in {'{"a": 1}': True, '{"a": "x"}': True, '{"a": 2}': False}.items():
        assert fits(compiler, shape, text_tokens(side, text)) == right, text


def test_every_kind_of_grammar_can_be_a_part(side: Any, compiler: GrammarCompiler) -> None:
    for grammar, text in (
        (Grammar("regex", r"[a-c]+/\d"), "abc/1"),
        (Grammar("choice", '["yes", "no"]'), "yes"),
        (Grammar("lark", 'start: "a" inner\ninner: "b"+'), "abb"),
        (Grammar("json_object"), '{"a": [1]}'),
    ):
        shape = InOrder((FreeText(until="</t>"), OneOf((Exactly("call"), grammar))))
        assert fits(compiler, shape, text_tokens(side, f"x</t>{text}")), grammar
        assert fits(compiler, shape, text_tokens(side, "x</t>call")), grammar
        assert not fits(compiler, shape, text_tokens(side, "x</t>?")), grammar


BAD, WORSE = schema_grammar({"type": "object", "if": {}}), schema_grammar({"type": "integer", "multipleOf": 1000003})


@pytest.mark.parametrize("bad", [BAD, WORSE, Grammar("json_schema", "no JSON")])
def test_the_part_that_cannot_be_enforced_is_named(compiler: GrammarCompiler, bad: Grammar) -> None:
    named = Grammar(bad.kind, bad.source, "tools[1].function.parameters")
    with pytest.raises(InvalidRequest) as caught:
        compiler.compile(OneOf((JSON_LIST, InOrder((Exactly("x"), named)))), "tools")
    assert caught.value.param == "tools[1].function.parameters"


def test_what_is_preferred_gives_way_where_it_cannot_be_enforced(side: Any, compiler: GrammarCompiler) -> None:
    anything = Grammar("json_object")
    kept = Preferably(schema_grammar({"type": "object", "maxProperties": 0}), anything)
    for given_up in (
        Preferably(BAD, anything),
        Preferably(WORSE, anything),
        Preferably(Grammar("regex", "("), anything),
    ):
        shape = OneOf((InOrder((Exactly("a"), given_up)), InOrder((Exactly("b"), kept))))
        for text, right in {'a{"x": 1}': True, "b{}": True, 'b{"x": 1}': False}.items():
            assert fits(compiler, shape, text_tokens(side, text)) == right, text


def test_equal_shapes_are_compiled_once(compiler: GrammarCompiler) -> None:
    def shape(param: str) -> Shape:
        return Repeated(InOrder((FreeText(until="<x>"), Grammar("json_schema", '{"type": "null"}', param))))

    assert compiler.compile(shape("a")) is compiler.compile(shape("b"))


def test_many_grammars_that_kill_their_trial_are_given_up_together(side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.engine import grammar_compiler
    from gateway.generation.grammar import InOrder, OneOf, Preferably

    monkeypatch.setattr(grammar_compiler, "TRIAL_SECONDS", 1.0)
    compiler = GrammarCompiler(side.tokenizer, side.vocabulary, frozenset({END, SECOND_END}))
    refuse, refused = compiler._why_refused, 0

    def counting(shape: Any) -> str:
        nonlocal refused
        refused += 1
        return refuse(shape)

    monkeypatch.setattr(compiler, "_why_refused", counting)
    fine = Grammar("choice", '["a"]')
    same = OneOf((*(Preferably(HOSTILE["multiple"], fine) for _ in range(200)), InOrder((fine,))))
    assert accepts(side, compiler.compile(same), "a")
    assert refused <= 4
    wishes = (schema_grammar({"type": "integer", "multipleOf": 1_000_003 + number}) for number in range(200))
    assert accepts(side, compiler.compile(OneOf(tuple(Preferably(wish, fine) for wish in wishes))), "a")
    assert refused <= 16
    compiler.close()


def test_what_was_compiled_is_known_without_compiling(compiler: GrammarCompiler) -> None:
    grammar = Grammar("regex", "known[0-9]")
    assert compiler.known(grammar) is None
    assert compiler.compile(grammar) is compiler.known(grammar)


class TestEscapes:
    """Of characters that need none: a model that begins one must be able to end it."""

    @pytest.mark.parametrize("value", ["\\u00e9", "\\u0041", "\\ud83d\\ude00", "\\u001b", "\\n", "é"])
    @pytest.mark.parametrize("string", [{"type": "string"}, {"type": "string", "maxLength": 3}, {}], ids=str)
    def test_any_character_may_be_written_so(
        self, side: Any, compiler: GrammarCompiler, string: Any, value: str
    ) -> None:
        grammar = compiler.compile(schema_grammar(arguments({"a": string}, ["a"])))
        assert accepts(side, grammar, f'{{"a": "{value}"}}')

    @pytest.mark.parametrize("half", ["\\ud83d", "\\ude00", "\\ud83dx", "\\ud83d\\u0041"])
    def test_halves_of_characters_are_none(self, side: Any, compiler: GrammarCompiler, half: str) -> None:
        grammar = compiler.compile(schema_grammar(arguments({"a": {"type": "string"}}, ["a"])))
        assert not accepts(side, grammar, f'{{"a": "{half}"}}')

    def test_lengths_count_characters(self, side: Any, compiler: GrammarCompiler) -> None:
        grammar = compiler.compile(schema_grammar(arguments({"a": {"type": "string", "maxLength": 1}}, ["a"])))
        assert accepts(side, grammar, '{"a": "\\u00e9"}')
        assert not accepts(side, grammar, '{"a": "\\u00e9a"}')

    @pytest.mark.parametrize(
        "limited",
        [
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?s:.*)$"}}, "required": ["a"]},
            {"type": "object", "patternProperties": {"^a": {"type": "string"}}, "additionalProperties": False},
        ],
        ids=str,
    )
    def test_beside_a_pattern_characters_stand_for_themselves(
        self, side: Any, compiler: GrammarCompiler, limited: Any
    ) -> None:
        """No `\\u` begins, for it could only end as another character."""
        grammar = compiler.compile(schema_grammar(limited))
        assert accepts(side, grammar, '{"a": "é\\n"}')
        beginning = text_tokens(side, '{"a": "')
        u = text_tokens(side, "\\u")
        _, masks = grammar.start().masks_along(beginning)
        assert not accepts(side, grammar, '{"a": "\\u0007"}')
        assert len(u) > 1 or not allows(masks[-1], u[0])
