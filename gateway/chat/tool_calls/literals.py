"""Values as programming languages write them, passed on as JSON while they come: `{'a': [1, None]}`, `(1, "x")`."""

import json
import math
import re
from dataclasses import dataclass

from gateway.chat.tool_calls.json_values import inside_string, json_string
from gateway.chat.tool_calls.reading import Give, Reader, Reading, parts_of

BARE = re.compile(r"[^\s,()\[\]{}=\"'<>]*")
BARE_KEY = re.compile(r"[^\s,()\[\]{}=\"'<>:]*")
WORDS = {"true": ("true", "boolean"), "false": ("false", "boolean"), "null": ("null", "null"), "none": ("null", "null")}
"""In small letters, with their JSON and its type."""

NUMBER = re.compile(r"[+-]?(\d|\.\d)[\w.+-]*")
CLOSERS = {"[": "]", "(": ")", "{": "}"}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
ESCAPES |= {character: character for character in "\\'\"/"}
CODE_LENGTHS = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, slots=True)
class Quotes:
    """What strings stand between; a backslash inside may be an escape or a backslash."""

    marks: tuple[str, ...]
    escapes: bool


PYTHON_QUOTES = Quotes(('"""', "'''", '"', "'"), escapes=True)


@dataclass(slots=True)
class _Container:
    closer: str
    is_object: bool
    count: int = 0
    awaits_key: bool = True
    key: str = ""

    @property
    def json_closer(self) -> str:
        return "}" if self.is_object else "]"

    def before_value(self) -> str:
        """What is written before the next value, so that a key without one is left out."""
        separator = ", " if self.count else ""
        self.count += 1
        return separator + self.key


def literal_as_json(text: str) -> str:
    """Of a list or an object; nothing if it is none, or more than one."""
    reader = Reader()
    written: list[str] = []
    copying = copy_container(reader, written.append, PYTHON_QUOTES)
    parts = iter(parts_of(text))
    try:
        for part in parts:
            reader.add(part)
            next(copying)
    except StopIteration as read:
        reader.end()
        return "".join(written) if read.value and reader.at_end and not any(parts) else ""
    return ""


def number(text: str) -> str:
    """As JSON; nothing if it is none."""
    if not NUMBER.fullmatch(text):
        return ""
    try:
        json.loads(text)
        return text
    except ValueError:
        pass
    try:
        return str(int(text, 0))
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return ""
    return repr(value) if math.isfinite(value) else ""


def read_bare(reader: Reader, characters: re.Pattern[str]) -> Reading[str]:
    """Nothing if the answer may go on with more of it."""
    bare: list[str] = []
    yield from reader.run(characters, bare.append)
    return "".join(bare) if (yield from reader.peek()) else ""


def copy_quoted(reader: Reader, give: Give, quote: str, quotes: Quotes) -> Reading[bool]:
    """The opening quote was taken."""
    give('"')
    whole = yield from read_quoted(reader, lambda text: give(inside_string(text)), quote, quotes)
    give('"' if whole else "")
    return whole


def read_quoted(reader: Reader, give: Give, quote: str, quotes: Quotes) -> Reading[bool]:
    marks = (quote, "\\") if quotes.escapes else (quote,)
    while (mark := (yield from reader.until(marks, give))) == "\\":
        reader.take(1)
        kind = yield from reader.peek()
        length = CODE_LENGTHS.get(kind, 0)
        code = (yield from reader.peek(1 + length))[1:]
        if not kind:
            return False
        if length and re.fullmatch(rf"[0-9a-fA-F]{{{length}}}", code) and int(code, 16) <= 0x10FFFF:
            reader.take(1 + length)
            give(chr(int(code, 16)))
        else:
            reader.take(1)
            give(ESCAPES.get(kind, "\\" + kind))
    reader.take(len(mark))
    return bool(mark)


def copy_container(reader: Reader, give: Give, quotes: Quotes) -> Reading[bool]:
    """Whether it came to its end and could be read. Where it could not be read on, what is open is closed."""
    inside: list[_Container] = []
    whole = True
    while True:
        yield from reader.skip_space()
        quote = yield from reader.skip(quotes.marks)
        head = "" if quote else (yield from reader.peek())
        here = inside[-1] if inside else None
        if here and (head == here.closer or (head == "," and (here.count or not here.awaits_key))):
            reader.take(1)
            whole = whole and here.awaits_key
            here.awaits_key = True
            if head == ",":
                continue
            give(here.json_closer)
            inside.pop()
            if not inside:
                return whole
            inside[-1].awaits_key = True
        elif here and here.is_object and here.awaits_key:
            if not (yield from _read_key(reader, here, quote, quotes)):
                return (yield from _close(reader, give, inside))
        elif head and head in CLOSERS:
            reader.take(1)
            give(here.before_value() if here else "")
            give("{" if head == "{" else "[")
            inside.append(_Container(CLOSERS[head], head == "{"))
        else:
            before = here.before_value() if here else ""
            if not (yield from _copy_scalar(reader, give, before, quote, quotes)):
                return (yield from _close(reader, give, inside))
            if here:
                here.awaits_key = True


def _close(reader: Reader, give: Give, inside: list[_Container]) -> Reading[bool]:
    if (yield from reader.peek()):  # else the answer's end cut it
        give("".join(container.json_closer for container in reversed(inside)))
    return False


def _read_key(reader: Reader, here: _Container, quote: str, quotes: Quotes) -> Reading[bool]:
    key: list[str] = []
    if quote:
        yield from read_quoted(reader, key.append, quote, quotes)
    else:
        key.append((yield from read_bare(reader, BARE_KEY)))
    yield from reader.skip_space()
    if (yield from reader.peek()) != ":" or not (quote or key[0]):
        return False
    reader.take(1)
    here.key = json_string("".join(key)) + ": "
    here.awaits_key = False
    return True


def _copy_scalar(reader: Reader, give: Give, before: str, quote: str, quotes: Quotes) -> Reading[bool]:
    if quote:
        give(before)
        return (yield from copy_quoted(reader, give, quote, quotes))
    bare = yield from read_bare(reader, BARE)
    if bare:
        word, _ = WORDS.get(bare.lower(), ("", ""))
        give(before + (word or number(bare) or json_string(bare)))
    return bool(bare)
