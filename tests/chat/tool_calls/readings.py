"""What parsers make of texts, whole and cut."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gateway.chat.output_parser import CallArguments, CallBegan, OutputParser, Piece, Said, Thought
from gateway.chat.tool_calls.dialect import ToolDialect
from gateway.generation.request import Tool

PARAMETERS = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "deep": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "options": {"$ref": "#/$defs/Options"},
    },
    "$defs": {"Options": {"type": "object"}},
}
TOOLS = (Tool("read_file", parameters=json.dumps(PARAMETERS)), Tool("list-files", parameters=json.dumps(PARAMETERS)))


@dataclass(frozen=True)
class Call:
    name: str
    arguments: Any  # parsed, or the text where it is no JSON


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of one kind made one."""
    whole: list[Piece] = []
    for piece in pieces:
        last = whole[-1] if whole else None
        if isinstance(piece, CallBegan) or type(last) is not type(piece) or isinstance(last, CallBegan | None):
            whole.append(piece)
        else:
            whole[-1] = type(piece)(last.text + piece.text)
    return whole


def fed(parser: OutputParser, parts: Iterable[str]) -> list[Piece]:
    pieces = [piece for part in parts for piece in parser.feed(part)]
    return joined([*pieces, *parser.finish()])


def parts_of(text: str, cuts: Iterable[int]) -> list[str]:
    places = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    return [text[begin:end] for begin, end in pairwise(places)]


def read(dialect: ToolDialect, text: str, tools: Sequence[Tool] = TOOLS) -> list[Piece]:
    """The same for the whole text, for every cut in two, and letter by letter."""
    whole = fed(dialect.parser(tools), [text])
    for cut in range(len(text) + 1):
        assert fed(dialect.parser(tools), [text[:cut], text[cut:]]) == whole, (text[:cut], text[cut:])
    assert fed(dialect.parser(tools), text) == whole
    return whole


def understood(pieces: Iterable[Piece]) -> list[Any]:
    """Texts as they are, thoughts in a tuple, calls with their arguments parsed."""
    found: list[Any] = []
    for piece in pieces:
        match piece:
            case Said(text):
                found.append(text)
            case Thought(text):
                found.append((text,))
            case CallBegan(name):
                found.append(Call(name, ""))
            case CallArguments(text):
                found[-1] = Call(found[-1].name, parsed(text))
    return found


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
