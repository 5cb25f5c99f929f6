"""How single parameters are written, by dialects that do not write a call's arguments as one JSON object. Pure."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.chat.tool_calls.typed_values import STRING, Kinds, ParameterKinds
from gateway.chat.tool_calls.written_calls import members, object_schema
from gateway.errors import UnsupportedParameter
from gateway.generation.grammar import Exactly, FreeText, InOrder, OneOf, Preferably, Shape, Space
from gateway.generation.request import Grammar, Tool

ANYTHING = Grammar("json_schema", "{}")
BEYOND_PARAMETERS = frozenset(
    {"$ref", "allOf", "anyOf", "oneOf", "not", "if", "propertyNames", "minProperties", "patternProperties"}
)
"""Keywords that say something of all arguments together."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a tool; `schema` stands for itself, with the definitions that it refers to."""

    name: str
    schema: Any
    kinds: Kinds
    tool: Tool

    def json(self) -> Shape:
        exact = Grammar("json_schema", json.dumps(self.schema), self.tool.param)
        return exact if self.tool.strict else Preferably(exact, ANYTHING)

    def text(self, padding: str, closing: str, never: Sequence[str]) -> Shape:
        """The value as bare text up to and with the closing: a string as it is, all else as JSON.

        A text ends where its reader sees its end: at the closing, with the padding or without it, and it is not to
        hold what `never` may be in one. Values with limits are padded, lest the reader takes some of them for padding.
        """
        schema = self.schema if isinstance(self.schema, dict) else {}
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list) and values:
            bare = OneOf(tuple(Exactly(_bare(value)) for value in values))
            return InOrder((Exactly(padding), bare, Exactly(padding + closing)))
        if "string" not in self.kinds:
            return InOrder((Space(), self.json(), Space(), Exactly(closing)))
        if self.kinds == STRING and (expression := string_expression(schema)):
            text = Grammar("regex", expression, self.tool.param)
            return InOrder((Exactly(padding), text, Exactly(padding + closing)))
        return FreeText(until=closing, without=tuple(never))


def parameters(tool: Tool) -> tuple[list[Parameter], list[Parameter]]:
    """The required ones and the optional ones.

    Raises `UnsupportedParameter` for a schema that does not list parameters, if it must be kept.
    """
    schema = object_schema(tool)
    beyond = sorted(BEYOND_PARAMETERS & schema.keys())
    if beyond and tool.strict:
        raise UnsupportedParameter(
            f"The JSON schema of {tool.name} uses keywords that this server cannot enforce in the way in which this "
            f"model calls tools: {', '.join(beyond)}. Leave them out.",
            tool.param,
        )
    kinds = ParameterKinds([tool])
    definitions: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    listed = schema.get("required")
    required = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    every: dict[str, Parameter] = {}
    for name in [*properties, *(name for name in required if name not in properties)]:
        each = properties.get(name, {})
        each = each | _referred_to(each, definitions) if isinstance(each, dict) else each
        every[name] = Parameter(name, each, kinds.of(tool.name, name), tool)
    return (
        [each for name, each in every.items() if name in required],
        [each for name, each in every.items() if name not in required],
    )


def written(tool: Tool, write: Callable[[Parameter], Shape]) -> tuple[Sequence[Shape], Sequence[Shape]]:
    """The required parameters and the optional ones, each as `write` has it."""
    required, optional = parameters(tool)
    return [write(each) for each in required], [write(each) for each in optional]


def function(tool: Tool) -> Shape:
    """`read_file(path="a.txt", lines=3)`"""
    required, optional = written(tool, lambda each: InOrder((Exactly(f"{each.name}="), each.json())))
    return InOrder((Exactly(f"{tool.name}("), members(required, optional, ", "), Exactly(")")))


def _referred_to(schema: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Of the definitions (`{"$defs": {..}}`), those that a schema needs; all where it refers to something else."""
    needed: dict[str, dict[str, Any]] = {}
    left = list(_references(schema))
    while left:
        match left.pop().split("/"):
            case ["#", group, name, *_] if group in definitions and "~" not in name and "%" not in name:
                found = definitions[group].get(name) if isinstance(definitions[group], dict) else None
                if name not in needed.setdefault(group, {}) and found is not None:
                    needed[group][name] = found
                    left += _references(found)
            case _:
                return definitions
    return needed


def _references(schema: Any) -> Iterator[str]:
    left = [schema]
    while left:
        match left.pop():
            case dict() as each:
                if isinstance(reference := each.get("$ref"), str):
                    yield reference
                left += each.values()
            case list() as several:
                left += several


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def string_expression(schema: dict[str, Any]) -> str:
    """A regular expression for a string's limits, without `<`, which may begin a mark; nothing if it has none."""
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        begins, ends = pattern.startswith("^"), re.search(r"(?<!\\)\$$", pattern) is not None
        body = pattern[1 if begins else 0 : -1 if ends else None]
        return f"{'' if begins else '[^<]*'}({body}){'' if ends else '[^<]*'}"
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if not least and most is None:
        return ""
    return f"[^<]{{{least},{'' if most is None else most}}}"
