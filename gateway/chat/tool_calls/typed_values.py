"""Arguments that a model writes as text, as JSON of the types that the tool's schema asks for."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.chat.tool_calls.json_values import inside_string, json_string, refuse_constant
from gateway.chat.tool_calls.literals import WORDS, literal_as_json
from gateway.chat.tool_calls.reading import Give
from gateway.generation.request import Tool

Kinds = frozenset[str]

ANY: Kinds = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
STRING: Kinds = frozenset({"string"})
CONTAINERS: Kinds = frozenset({"object", "array"})
NUMBERS: Kinds = frozenset({"number", "integer"})

BEGINS_NUMBER = re.compile(r"-?(\d[\d.eE+-]*)?")
DEEPEST_REFERENCE = 16
MOST_NODES = 256
"""Of a schema, looked at for one parameter: clients write schemas, and the event loop waits meanwhile."""


SHORT = 64
"""Characters of a value that is looked at whenever more of it comes."""


class ParameterKinds:
    """Which JSON types each parameter of each tool may have. What no schema speaks of may have any."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._schemas = {tool.name: _object(tool.parameters) for tool in tools}

    def of(self, tool: str, parameter: str) -> Kinds:
        root = self._schemas.get(tool, {})
        properties = root.get("properties")
        if not isinstance(properties, dict) or parameter not in properties:
            return ANY
        return _kinds(properties[parameter], root, _Walk()) or ANY


def _object(source: str) -> dict[str, Any]:
    try:
        schema = json.loads(source)
    except (ValueError, RecursionError):
        return {}
    return schema if isinstance(schema, dict) else {}


@dataclass(slots=True)
class _Walk:
    """What was visited for one parameter. All that is found is united, so to follow a reference twice adds nothing."""

    references: set[str] = field(default_factory=set)
    nodes: int = 0


def _kinds(schema: Any, root: dict[str, Any], walk: _Walk, depth: int = 0) -> Kinds:
    """Nothing where the schema does not say."""
    walk.nodes += 1
    if not isinstance(schema, dict) or depth > DEEPEST_REFERENCE or walk.nodes > MOST_NODES:
        return frozenset()
    named = schema.get("type")
    kinds = frozenset(kind for kind in ANY if kind == named or (isinstance(named, list) and kind in named))
    for key in ("anyOf", "oneOf", "allOf"):
        if not kinds and isinstance(branches := schema.get(key), list):
            kinds = frozenset().union(*(_kinds(branch, root, walk, depth + 1) for branch in branches[:MOST_NODES]))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not kinds and isinstance(values, list):
        kinds = frozenset(kind for value in values[:MOST_NODES] for kind in kinds_of(value))
    if not kinds and isinstance(reference := schema.get("$ref"), str) and reference not in walk.references:
        walk.references.add(reference)
        kinds = _kinds(_referenced(reference, root), root, walk, depth + 1)
    return kinds | {"null"} if kinds and schema.get("nullable") is True else kinds


def _referenced(reference: str, root: dict[str, Any]) -> Any:
    found: Any = root
    for name in reference.removeprefix("#/").split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def kinds_of(value: Any) -> Kinds:
    match value:
        case None:
            return frozenset({"null"})
        case bool():
            return frozenset({"boolean"})
        case int():
            return NUMBERS
        case float():
            return NUMBERS if value.is_integer() else frozenset({"number"})
        case str():
            return STRING
        case dict():
            return frozenset({"object"})
        case _:
            return frozenset({"array"})


def as_json(text: str, kinds: Kinds) -> str:
    """The text as JSON of one of the kinds; if it is none of them, as what it looks like."""
    if kinds == STRING:
        return json_string(text)
    bare = text.strip()
    word, kind = WORDS.get(bare.lower(), ("", ""))
    if kind in kinds:
        return word
    looks = _kinds_of_json(bare)
    if looks & kinds:
        return bare
    if bare.startswith(("[", "{", "(")) and kinds & CONTAINERS and (literal := literal_as_json(bare)):
        return literal
    if "string" in kinds or not looks:
        return json_string(text)
    return bare


def _kinds_of_json(text: str) -> Kinds:
    """Nothing if the text is no JSON, or a string."""
    if text.startswith('"'):
        return frozenset()
    try:
        return kinds_of(json.loads(text, parse_constant=refuse_constant))
    except (ValueError, RecursionError):
        return frozenset()


class TypedValue:
    """One value, passed on as it comes as soon as it can only be a string."""

    def __init__(self, kinds: Kinds, give: Give) -> None:
        self._kinds = kinds
        self._give = give
        self._held: list[str] = []
        self._length = 0
        self._looked_at = 0
        self._is_string = kinds == STRING
        if self._is_string:
            give('"')

    def feed(self, text: str) -> None:
        if self._is_string:
            self._give(inside_string(text))
            return
        self._held.append(text)
        self._length += len(text)
        if self._length <= SHORT or self._length >= 2 * self._looked_at:
            self._look()

    def finish(self) -> None:
        self._look()
        self._give('"' if self._is_string else as_json("".join(self._held), self._kinds))

    def _look(self) -> None:
        """Whether it is a string by now: a long value is looked at each time it has doubled, for that costs its
        length."""
        if self._is_string or "string" not in self._kinds:
            return
        text = "".join(self._held)
        self._held, self._looked_at = [text], self._length
        if not _may_be_other(text, self._kinds):
            self._is_string = True
            self._give('"' + inside_string(text))


def _may_be_other(text: str, kinds: Kinds) -> bool:
    """Whether a text that begins so may be something else than a string. Once it may not, it never may."""
    bare = text.strip()
    if not bare:
        return True
    if bare[0] == "{":
        return "object" in kinds
    if bare[0] == "[":
        return "array" in kinds
    if kinds & NUMBERS and BEGINS_NUMBER.fullmatch(bare):
        return True
    return any(word.startswith(bare.lower()) and kind in kinds for word, (_, kind) in WORDS.items())


class ObjectWriter:
    """An object's JSON, member by member. A member of whose value nothing is written is left out."""

    def __init__(self, give: Give) -> None:
        self._give = give
        self._separator = ""
        self._key = ""
        give("{")

    def key(self, name: str) -> None:
        self._key = f"{self._separator}{json_string(name)}: "

    def value(self, text: str) -> None:
        """The next piece of the value of the key."""
        if not text:
            return
        if self._key:
            self._give(self._key)
            self._key, self._separator = "", ", "
        self._give(text)

    def close(self) -> None:
        self._give("}")
