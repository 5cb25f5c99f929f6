"""What an answer must look like, in the words of llguidance. Does not import mlx.

JSON is written as Python's `json.dumps` writes it, on one line with one space after each comma and colon: it is the
form that models know from their prompts, a small model cannot lose itself in whitespace, and most of the text
between two values is forced.

Source of the syntax: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md. A composed answer is one Lark
grammar with JSON schemas inside: what llguidance calls lexeme classes are merged then, so that tools whose calls begin
alike can be told apart later.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from llguidance import LLMatcher

from gateway.engine.json_schema_form import enforceable, has_patterns
from gateway.generation.grammar import Exactly, FreeText, InOrder, OneOf, Preferably, Repeated, Shape, SomeOf, Space
from gateway.generation.request import Grammar

MOST_SOURCE_CHARACTERS = 200_000
MOST_COMPOSED_CHARACTERS = 2_000_000
JSON_FORM = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # An answer matches one alternative at least; that it matches no second one is beyond a grammar.
    "coerce_one_of": True,
}
ANY_CHARACTER_ESCAPED = {"json_allow_general_unicode_escapes": True}
NO_CHARACTER_ESCAPED = {"json_allowed_escapes": 'nrbtf\\"'}
"""Of a string with a pattern llguidance knows `\\u` escapes of control characters only: a model that begins `\\u00e9`
would be led to one of these. So it is kept from `\\u`, and writes the character itself."""

ANY_TEXT = "/(?s:.*)/"
SPACE = r"/[ \t\r\n]{0,16}/"
REGEX_SYNTAX = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~/]")

SpecialToken = Callable[[str], int | None]
"""The id of the special token with this text, if the model has one."""


def llguidance_form(shape: Shape, special_token: SpecialToken) -> str:
    """One line of JSON that llguidance compiles. Raises ValueError or RecursionError, worded for the client."""
    if isinstance(shape, Grammar):
        return json.dumps({"grammars": [_grammar(shape)]})
    return _Composed(shape, special_token).form()


def _grammar(leaf: Grammar) -> dict[str, Any]:
    if len(leaf.source) > MOST_SOURCE_CHARACTERS:
        raise ValueError(f"it has {len(leaf.source)} characters; at most {MOST_SOURCE_CHARACTERS} are allowed")
    match leaf.kind:
        case "json_object" | "json_schema":
            return {"json_schema": _schema(leaf)}
        case "regex":
            grammar: dict[str, Any] = json.loads(LLMatcher.grammar_from_regex(leaf.source))["grammars"][0]
            return {"lark_grammar": grammar["lark_grammar"]}
        case "lark":
            return {"lark_grammar": leaf.source}
        case "choice":
            choices = json.loads(leaf.source)
            if not (isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices)):
                raise ValueError("it must have one string or more, and nothing else")
            strings = " | ".join(_literal(choice) for choice in choices)
            return {"lark_grammar": f"start: CHOICE\nCHOICE: {strings}"}


def _schema(leaf: Grammar) -> dict[str, Any]:
    schema = {"type": "object"} if leaf.kind == "json_object" else json.loads(leaf.source)
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise ValueError("it must be a JSON object")
    said: dict[str, Any] = enforceable(schema)
    escapes = NO_CHARACTER_ESCAPED if has_patterns(said) else ANY_CHARACTER_ESCAPED
    return said | {"x-guidance": JSON_FORM | escapes}


class _Composed:
    """Writes one composed answer as a Lark grammar, and the clients' own Lark grammars beside it."""

    def __init__(self, shape: Shape, special_token: SpecialToken) -> None:
        self._special_token = special_token
        self._rules: list[str] = []
        self._names: dict[Shape | str, str] = {}  # of rules and terminals that are there already
        self._beside: list[dict[str, Any]] = []
        self._start = self._written(shape)

    def form(self) -> str:
        lark = "\n".join((f"start: {self._start}", *self._rules))
        if len(lark) > MOST_COMPOSED_CHARACTERS:
            raise ValueError(f"its grammar has {len(lark)} characters; at most {MOST_COMPOSED_CHARACTERS} are allowed")
        return json.dumps({"grammars": [{"lark_grammar": lark}, *self._beside]})

    def _written(self, shape: Shape) -> str:
        """An expression for a rule's right side."""
        match shape:
            case Exactly(text):
                return self._mark(text)
            case Space():
                return self._terminal(SPACE)
            case InOrder(parts):
                return " ".join(written for part in parts if (written := self._written(part))) or '""'
            case OneOf(choices):
                return f"({' | '.join(self._written(choice) for choice in choices)})"
            case Repeated(part, least):
                return f"({self._written(part)}){'+' if least else '*'}"
            case SomeOf():
                return self._some_of(shape)
            case FreeText():
                return self._free_text(shape)
            case Preferably(first):
                return self._written(first)
            case Grammar():
                if shape not in self._names:
                    self._names[shape] = self._leaf(shape)
                return self._names[shape]

    def _some_of(self, shape: SomeOf) -> str:
        """A rule for the parts from each one on, with others before it or without."""
        separator = _literal(shape.separator)
        first = later = '""'
        for part in reversed(shape.parts):
            written = self._rule(self._written(part))
            first = self._rule(f"{written} {later} | {first}")
            later = self._rule(f"({separator} {written})? {later}")
        return first

    def _rule(self, right_side: str) -> str:
        name = f"rule_{len(self._rules)}"
        self._rules.append(f"{name}: {right_side}")
        return name

    def _leaf(self, leaf: Grammar) -> str:
        number = len(self._names)
        if leaf.kind in ("json_object", "json_schema"):
            self._rules.append(f"json_{number}: %json {json.dumps(_grammar(leaf)['json_schema'])}")
            return f"json_{number}"
        self._beside.append({"name": f"grammar_{number}"} | _grammar(leaf))
        return f"@grammar_{number}"

    def _mark(self, text: str) -> str:
        token = self._special_token(text)
        return _literal(text) if token is None else f"<[{token}]>"

    def _free_text(self, shape: FreeText) -> str:
        text = self._text(shape, tuple(rf"\s*{_regex(mark)}" for mark in self._as_text(shape, shape.not_beginning)))
        until = shape.until
        if until is not None and self._special_token(until) is None:
            if shape not in self._names:
                # Lazy: it ends with the first mark, whatever else the text could be.
                self._names[shape] = name = f"text_{len(self._names)}"
                self._rules.append(f"{name}[lazy]: {text} {_literal(until)}")
            return self._names[shape]
        if special := self._special_in_text(shape):
            text = f"{text} ({' | '.join(special)})*"
        return text if until is None else f"{text} {self._mark(until)}"

    def _special_in_text(self, shape: FreeText) -> list[str]:
        """Each special token that may stand in the text, and the text behind it, which makes it no mark left out."""
        tokens = {mark: token for mark in shape.special if (token := self._special_token(mark)) is not None}
        found = []
        for mark, token in tokens.items():
            behind = [left[len(mark) :] for left in (*shape.without, *shape.not_beginning) if left.startswith(mark)]
            for other in tokens:
                behind = [text.split(other)[0] for text in behind]
            if "" not in behind:
                found.append(f"<[{token}]> {self._text(shape, tuple(_regex(text) for text in behind))}")
        return found

    def _text(self, shape: FreeText, not_beginning: Sequence[str]) -> str:
        """A terminal for text that begins with none of these expressions."""
        patterns = [f"(?s:.*){_regex(mark)}(?s:.*)" for mark in self._as_text(shape, shape.without)]
        patterns += [f"{beginning}(?s:.*)" for beginning in not_beginning]
        return self._terminal(" & ".join((ANY_TEXT, *(f"~/{pattern}/" for pattern in patterns))))

    def _as_text(self, shape: FreeText, marks: Sequence[str]) -> list[str]:
        """Those that are text for this model, and neither are special tokens nor begin with one."""
        special = [mark for mark in (*shape.special, *marks) if self._special_token(mark) is not None]
        return [mark for mark in marks if not mark.startswith(tuple(special))]

    def _terminal(self, definition: str) -> str:
        if definition not in self._names:
            self._names[definition] = name = f"TEXT_{len(self._names)}"
            self._rules.append(f"{name}: {definition}")
        return self._names[definition]


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _regex(text: str) -> str:
    """An expression for exactly this text, which may stand between slashes."""
    return REGEX_SYNTAX.sub(lambda found: f"\\{found[0]}", text).replace("\n", "\\n")
