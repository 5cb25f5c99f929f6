"""A JSON Schema as the shape of values in Gemma's syntax: `{path:<escape>a.txt<escape>,lines:[1,20]}`. Pure.

It is JSON without quotes around keys, without spaces, and with marks around strings, in which nothing is escaped.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from gateway.chat.tool_calls.typed_values import ANY
from gateway.chat.tool_calls.written_calls import listed, members
from gateway.chat.tool_calls.written_parameters import string_expression
from gateway.generation.grammar import NOTHING, Exactly, FreeText, InOrder, OneOf, Repeated, Shape, maybe
from gateway.generation.request import Grammar

KEY = re.compile(r"[\w$@.-]+")
ANY_KEY = Grammar("regex", r"[A-Za-z_][A-Za-z0-9_]{0,40}")
PLAIN_PATTERN = re.compile(r"\^(\[[\w-]+\]|\w|[-+*?()|]|\{\d+(,\d*)?\})+\$")
"""A regular expression for names in which nothing stands that could end one."""

FORMATS = {
    "date": (DATE := r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"),
    "time": (TIME := r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"),
    "date-time": f"{DATE}T{TIME}",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "email": r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+",
}
DEEPEST = 12
DEEPEST_ANYTHING = 2
"""Containers within a value of which no schema speaks."""

MOST_ITEMS = 32
"""That are counted in a list."""

SAID = frozenset(
    {"type", "$ref", "anyOf", "oneOf", "enum", "const", "properties", "required", "additionalProperties", "items"}
    | {"minItems", "maxItems", "minLength", "maxLength", "pattern", "minimum", "maximum", "multipleOf", "nullable"}
    | {"exclusiveMinimum", "exclusiveMaximum", "$defs", "definitions"}
    | {"title", "description", "default", "examples", "format", "$comment", "$schema", "deprecated"}
    | {"readOnly", "writeOnly", "$id", "prefixItems", "maxProperties", "patternProperties"}
)
NUMBER_LIMITS = ("type", "minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum")


class CannotSay(ValueError):
    """What of a schema has no shape."""


class GemmaValues:
    """Shapes of values, with strings between `quote`; `param` is the request's field with the schema."""

    def __init__(self, quote: str, param: str, root: dict[str, Any], *, strict: bool) -> None:
        """`root` is where references begin."""
        self._quote = quote
        self._param = param
        self._root = root
        self._strict = strict

    def value(self, schema: Any, depth: int = 0) -> Shape:
        """Unless it is `strict`, anything in the place of what cannot be said; else raises `CannotSay`."""
        try:
            return self._value(schema, depth)
        except CannotSay:
            if self._strict or not depth:
                raise
        return self.anything(DEEPEST_ANYTHING)

    def any_object(self) -> Shape:
        return self._any_object(0)

    def _value(self, schema: Any, depth: int) -> Shape:
        if schema is True or schema == {}:
            return self.anything()
        if not isinstance(schema, dict):
            raise CannotSay("a schema that is no object")
        if depth > DEEPEST:
            raise CannotSay("a schema that is nested so deeply, or within itself")
        if unsaid := sorted(schema.keys() - SAID):
            raise CannotSay(unsaid[0])
        if "const" in schema or isinstance(schema.get("enum"), list):
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return OneOf(tuple(self.literal(value) for value in values))
        if "$ref" in schema:
            return self.value(self._referred_to(schema["$ref"]), depth + 1)
        for key in ("anyOf", "oneOf"):
            if isinstance(branches := schema.get(key), list) and branches:
                return OneOf(tuple(self.value(branch, depth + 1) for branch in branches))
        kinds = schema.get("type") or _implied_kinds(schema)
        kinds = [kinds] if isinstance(kinds, str) else [*kinds]
        if schema.get("nullable") is True:
            kinds.append("null")
        return OneOf(tuple(self._of_kind(kind, schema, depth) for kind in kinds))

    def anything(self, depth: int = 0) -> Shape:
        """A value of which no schema speaks."""
        simple = (
            self._string({}),
            Grammar("json_schema", '{"type": "number"}'),
            *map(self.literal, (True, False, None)),
        )
        if depth >= DEEPEST_ANYTHING:
            return OneOf(simple)
        return OneOf((*simple, self._list({"items": True}, depth), self._any_object(depth)))

    def literal(self, value: Any) -> Shape:
        match value:
            case str():
                return InOrder((Exactly(self._quote), Exactly(value), Exactly(self._quote)))
            case list():
                return self._in("[", self._separated([self.literal(each) for each in value]), "]")
            case dict():
                written = [InOrder((self._key(name), self.literal(each))) for name, each in value.items()]
                return self._in("{", self._separated(written), "}")
        return Exactly(json.dumps(value))

    def _of_kind(self, kind: str, schema: dict[str, Any], depth: int) -> Shape:
        match kind:
            case "string":
                return self._string(schema)
            case "boolean":
                return OneOf((Exactly("true"), Exactly("false")))
            case "null":
                return Exactly("null")
            case "number" | "integer":
                limits = {name: schema[name] for name in NUMBER_LIMITS if name in schema} | {"type": kind}
                return Grammar("json_schema", json.dumps(limits), self._param)
            case "array":
                return self._list(schema, depth)
            case "object":
                return self._object(schema, depth)
        raise CannotSay(f"type {kind!r}")

    def _string(self, schema: dict[str, Any]) -> Shape:
        if expression := string_expression(schema) or FORMATS.get(schema.get("format", "")):
            text = Grammar("regex", expression, self._param)
            return InOrder((Exactly(self._quote), text, Exactly(self._quote)))
        return InOrder((Exactly(self._quote), FreeText(until=self._quote)))

    def _list(self, schema: dict[str, Any], depth: int) -> Shape:
        first = [self.value(each, depth + 1) for each in schema.get("prefixItems", ())]
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        items = schema.get("items", True)
        if items is False or (first and most is not None and most <= len(first)):
            most = len(first) if most is None else min(most, len(first))
        if most is not None and most <= len(first):
            return self._in("[", _counted(first[:most], least), "]")
        item = self.anything(depth + 1) if items is True or items == {} else self.value(items, depth + 1)
        return self._in("[", _repeated(first, item, least, most), "]")

    def _object(self, schema: dict[str, Any], depth: int) -> Shape:
        properties = schema.get("properties")
        required = [name for name in schema.get("required", ()) if isinstance(name, str)]
        if not properties and not required:
            return self._named_freely(schema, depth)
        if "maxProperties" in schema or "patternProperties" in schema:
            raise CannotSay("maxProperties or patternProperties beside properties")
        every = {name: (properties or {}).get(name, True) for name in dict.fromkeys([*(properties or ()), *required])}
        written = {name: InOrder((self._key(name), self.value(each, depth + 1))) for name, each in every.items()}
        inside = members(
            [each for name, each in written.items() if name in required],
            [each for name, each in written.items() if name not in required],
            ",",
        )
        return self._in("{", inside, "}")

    def _named_freely(self, schema: dict[str, Any], depth: int) -> Shape:
        further, key = schema.get("additionalProperties", True), ANY_KEY
        if patterns := schema.get("patternProperties"):
            if len(patterns) > 1 or further is not False:
                raise CannotSay("patternProperties")
            ((pattern, further),) = patterns.items()
            if not PLAIN_PATTERN.fullmatch(pattern):
                raise CannotSay(f"the pattern {pattern[:40]!r} for names")
            key = Grammar("regex", pattern[1:-1], self._param)
        if further is False:
            return Exactly("{}")
        value = self.anything(depth + 1) if further is True else self.value(further, depth + 1)
        return self._any_object(depth, key, value, schema.get("maxProperties"))

    def _any_object(
        self, depth: int, key: Grammar = ANY_KEY, value: Shape | None = None, most: int | None = None
    ) -> Shape:
        member = InOrder((key, Exactly(":"), value or self.anything(depth + 1)))
        return self._in("{", _repeated([], member, 0, most), "}")

    def _key(self, name: str) -> Shape:
        if not KEY.fullmatch(name):
            raise CannotSay(f"the property name {name[:40]!r}")
        return Exactly(f"{name}:")

    def _referred_to(self, reference: Any) -> Any:
        found: Any = self._root
        for name in str(reference).removeprefix("#").split("/")[1:]:
            found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        if found is None:
            raise CannotSay("$ref")
        return found

    def _separated(self, parts: Sequence[Shape]) -> Shape:
        return InOrder(tuple(part for each in parts for part in (Exactly(","), each))[1:])

    def _in(self, opens: str, inside: Shape, closes: str) -> Shape:
        return InOrder((Exactly(opens), inside, Exactly(closes)))


def _repeated(first: Sequence[Shape], item: Shape, least: int, most: int | None) -> Shape:
    """Parts with commas between them: the `first`, then as many of `item` as make `least` to `most` parts."""
    if max(least, len(first)) > MOST_ITEMS:
        raise CannotSay("so many items")
    if most is None or most > MOST_ITEMS:
        if most is not None:
            return _counted([*first, *[item] * (MOST_ITEMS - len(first))], least)
        fixed = [*first, *[item] * (least - len(first))]
        if len(fixed) > least:
            return _counted(fixed, least, then=Repeated(InOrder((Exactly(","), item))))
        if not fixed:
            return maybe(listed(item, ",", parallel=True))
        return InOrder((_counted(fixed, len(fixed)), Repeated(InOrder((Exactly(","), item)))))
    return _counted([*first, *[item] * (most - len(first))], least)


def _counted(parts: Sequence[Shape], least: int, then: Shape = NOTHING) -> Shape:
    """At least so many of the parts, from the first on; behind them all comes `then`."""
    if least > len(parts):
        raise CannotSay("minItems beyond what the items allow")
    tail = then
    for index in range(len(parts) - 1, -1, -1):
        part = InOrder((Exactly(","), parts[index], tail)) if index else InOrder((parts[index], tail))
        tail = part if index < least else maybe(part)
    return tail


def _implied_kinds(schema: dict[str, Any]) -> Sequence[str]:
    """Of a schema that names no type, by what it speaks of."""
    if "properties" in schema or "required" in schema or "additionalProperties" in schema:
        return ("object",)
    if "items" in schema:
        return ("array",)
    if "pattern" in schema or "maxLength" in schema or "minLength" in schema:
        return ("string",)
    return sorted(ANY - {"integer", "array", "object"})
