"""How calls are written when a grammar holds them to their tools: the parts that dialects have in common. Pure."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.generation.grammar import Exactly, InOrder, OneOf, Preferably, Repeated, Shape, SomeOf, maybe
from gateway.generation.request import Grammar, Tool

ANY_OBJECT = Grammar("json_object")
NUMBERED_CALLS = 8
"""In one answer, whose numbers are forced; the model counts the others itself."""

SAYS_THE_TYPE = ("type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const")


@dataclass(frozen=True, slots=True)
class WrittenCalls:
    """Calls as a dialect writes them: blocks, each an `opening` and the `rest` of it, up to its end.

    With a `separator` an answer may have more blocks, without one a block holds all its calls. The grammar takes over
    at the opening; a dialect whose opening is common in texts begins its answer with it, and `marks` tell what no
    other answer begins with. Calls that are bare JSON come `beside_json` as JSON throughout: a grammar looks for its
    longest word, which would hide a form that begins as they do.
    """

    opening: str
    rest: Shape
    separator: str | None = None
    marks: tuple[str, ...] = ()
    beside_json: Shape | None = None

    @property
    def only_first(self) -> bool:
        return bool(self.marks)

    def alone(self, *, parallel: bool) -> Shape:
        """An answer of calls and nothing else; in `parallel`, of one or more."""
        block = InOrder((Exactly(self.opening), self.rest))
        if self.separator is None or not parallel:
            return block
        return InOrder((block, Repeated(InOrder((Exactly(self.separator), block)))))


def arguments(tool: Tool) -> Shape:
    """JSON that matches the tool's schema; of a tool that is not strict, any object where that cannot be enforced."""
    exact = Grammar("json_schema", json.dumps(object_schema(tool)), tool.param)
    return exact if tool.strict else Preferably(exact, ANY_OBJECT)


def object_schema(tool: Tool) -> dict[str, Any]:
    """The schema, which may leave out that arguments are an object. A tool's parameters are an object's JSON."""
    schema: dict[str, Any] = json.loads(tool.parameters)
    return schema if any(keyword in schema for keyword in SAYS_THE_TYPE) else {"type": "object"} | schema


def json_call(tool: Tool, name_key: str = "name", arguments_key: str = "arguments") -> Shape:
    """`{"name": "read_file", "arguments": {"path": "a.txt"}}`"""
    head = f'{{"{name_key}": {json.dumps(tool.name)}, "{arguments_key}": '
    return InOrder((Exactly(head), arguments(tool), Exactly("}")))


def one_json_call(tool: Tool, arguments_key: str) -> Shape:
    """The same as one JSON value."""

    def whole(parameters: Any) -> Grammar:
        properties = {"name": {"const": tool.name}, arguments_key: parameters}
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        return Grammar("json_schema", json.dumps(schema | {"additionalProperties": False}), tool.param)

    exact = whole(_moved(object_schema(tool), f"#/properties/{arguments_key}"))
    return exact if tool.strict else Preferably(exact, whole({"type": "object"}))


def _moved(schema: Any, place: str) -> Any:
    """A schema that stands at this place of another, where its references find what they mean."""
    match schema:
        case list():
            return [_moved(each, place) for each in schema]
        case dict():
            moved = {key: _moved(value, place) for key, value in schema.items()}
            match schema.get("$ref"):
                case str(reference) if reference == "#" or reference.startswith("#/"):
                    moved["$ref"] = place + reference[1:]
            return moved
    return schema


def any_of(tools: Sequence[Tool], call: Callable[[Tool], Shape] = json_call) -> Shape:
    """A call of one of the tools."""
    return call(tools[0]) if len(tools) == 1 else OneOf(tuple(call(tool) for tool in tools))


def listed(call: Shape, separator: str, *, parallel: bool) -> Shape:
    """One call, or in `parallel` more of them."""
    return InOrder((call, Repeated(InOrder((Exactly(separator), call))))) if parallel else call


def numbered(call: Callable[[Shape], Shape], first: int, *, parallel: bool) -> Shape:
    """One call with this number, or in `parallel` more of them, numbered on as far as a grammar counts."""
    if not parallel:
        return call(Exactly(str(first)))
    digit = OneOf(tuple(Exactly(str(value)) for value in range(10)))
    last = first + NUMBERED_CALLS
    following: Shape = Repeated(call(InOrder((digit, maybe(digit)))))
    for number in range(last - 1, first, -1):
        following = maybe(InOrder((call(Exactly(str(number))), following)))
    return InOrder((call(Exactly(str(first))), following))


def members(required: Sequence[Shape], optional: Sequence[Shape], separator: str = "") -> Shape:
    """All that is required, then what is optional, in order and with the separator between any two."""
    between = (Exactly(separator),) if separator else ()
    if required or not separator:
        head = [part for each in required for part in (*between, each)][len(between) :]
        return InOrder((*head, *(maybe(InOrder((*between, each))) for each in optional)))
    return SomeOf(tuple(optional), separator)
