"""The request fields that hold an answer to a form: OpenAI's response formats, and vLLM's names for more."""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import Grammar
from gateway.protocols.sampling_fields import SamplingFields


class JsonSchemaFormat(Struct, frozen=True):
    """`strict` is accepted either way: the answer always matches the schema."""

    schema: dict[str, Any] | bool | None = None


class ResponseFormat(Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Struct, frozen=True):
    """vLLM's newer name of the `guided_*` fields. What it says of whitespace is not the client's to choose here."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None


class GrammarFields(SamplingFields, frozen=True, kw_only=True):
    """With those of sampling: a struct can inherit fields of one other only."""

    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None


def grammar(fields: GrammarFields) -> Grammar | None:
    """What the answer must match. Raises `InvalidRequest` if the request says it in more than one way."""
    asked = []
    if fields.response_format and fields.response_format.type == "json_object":
        asked.append(Grammar("json_object"))
    elif fields.response_format and fields.response_format.type == "json_schema":
        given = fields.response_format.json_schema
        if given is None or given.schema is None:
            raise InvalidRequest("json_schema needs a schema.", param="response_format.json_schema.schema")
        asked.append(Grammar("json_schema", _json(given.schema)))
    asked += _grammars("guided_", fields.guided_json, fields.guided_regex, fields.guided_choice, fields.guided_grammar)
    if form := fields.structured_outputs:
        if form.structural_tag is not None:
            name = "structured_outputs.structural_tag"
            raise UnsupportedParameter(f"This server does not support {name}; send the request without.", param=name)
        asked += _grammars("structured_outputs.", form.json, form.regex, form.choice, form.grammar)
        if form.json_object:
            asked.append(Grammar("json_object", param="structured_outputs.json_object"))
    if len(asked) > 1:
        names = " and ".join(grammar.param for grammar in asked)
        raise InvalidRequest(f"{names} cannot be combined; send one of them.", param=asked[-1].param)
    return asked[0] if asked else None


def _grammars(
    prefix: str, schema: dict[str, Any] | str | None, regex: str | None, choice: list[str] | None, lark: str | None
) -> Iterator[Grammar]:
    """One for each that is given; `prefix` begins the fields' names."""
    if schema is not None:
        yield Grammar("json_schema", schema if isinstance(schema, str) else _json(schema), f"{prefix}json")
    if regex is not None:
        yield Grammar("regex", regex, f"{prefix}regex")
    if choice is not None:
        yield Grammar("choice", _json(choice), f"{prefix}choice")
    if lark is not None:
        yield Grammar("lark", lark, f"{prefix}grammar")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
