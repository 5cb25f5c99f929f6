"""JSON values as a model writes them, passed on while they come."""

import json
import re
from collections.abc import Iterable
from typing import Any

from gateway.chat.tool_calls.reading import Give, Reader, Reading

PLAIN_IN_STRING = re.compile(r'[^"\\\x00-\x1f]*')
PLAIN_OUTSIDE = re.compile(r"[\s\w:.+-]*")
COMMA = re.compile(r"[\s,]*")
CLOSERS = {"{": "}", "[": "]"}
SCALAR = re.compile(r"[\w.+-]*")
SURROGATE = re.compile("[\ud800-\udfff]")
SIMPLE_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def json_string(text: str) -> str:
    """With quotes; valid UTF-8 also where half a surrogate pair was written."""
    quoted = json.dumps(text, ensure_ascii=False)
    return SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", quoted)


def inside_string(text: str) -> str:
    return json_string(text)[1:-1]


def refuse_constant(constant: str) -> Any:
    """For `json.loads`, which reads NaN and Infinity too: JSON does not have them."""
    raise ValueError(constant)


def copy_string(reader: Reader, give: Give) -> Reading[bool]:
    """From quote to quote; raw control characters, which JSON forbids, are escaped. Whether it came to its end."""
    give(reader.take(1))
    while True:
        yield from reader.run(PLAIN_IN_STRING, give)
        head = yield from reader.peek()
        if head == '"':
            give(reader.take(1))
            return True
        if head == "\\":
            if len((yield from reader.peek(2))) < 2:
                return False
            give(reader.take(1))
            if (yield from reader.peek()) >= " ":
                give(reader.take(1))
            else:
                give(inside_string("\\" + reader.take(1))[1:])
        elif head:
            give(inside_string(reader.take(1)))
        else:
            return False


def copy_value(reader: Reader, give: Give, ends: Iterable[str] = ()) -> Reading[bool]:
    """One value as it is written, without commas and closing brackets that are too many.

    Whether it came to its end; it does not where one of the `ends` stands outside a string, where what is open is
    closed. Where the answer's end cut it, it stays open.
    """
    closers: list[str] = []
    while True:
        head = yield from reader.peek()
        comma: list[str] = []
        if head == "," and closers:
            yield from reader.run(COMMA, comma.append)
            head = yield from reader.peek()
        if not head:
            return False
        if head not in '"{[]}' and (yield from reader.begins_with(ends)):
            give("".join(reversed(closers)))
            return False
        if head not in "]}":
            give("".join(comma))
        if head == '"':
            if not (yield from copy_string(reader, give)):
                return False
        elif head in CLOSERS:
            closers.append(CLOSERS[head])
            give(reader.take(1))
        elif head in closers:
            reader.take(1)
            while (closer := closers.pop()) != head:
                give(closer)
            give(head)
        elif head in "]}" and closers:
            reader.take(1)
        elif not closers:
            scalar: list[str] = []
            yield from reader.run(SCALAR, scalar.append)
            give("".join(scalar))
            return bool(scalar)
        elif PLAIN_OUTSIDE.fullmatch(head):
            yield from reader.run(PLAIN_OUTSIDE, give)
        else:
            give(reader.take(1))
        if not closers:
            return True


def read_string(reader: Reader) -> Reading[str | None]:
    """What the string says, if it comes to its end."""
    raw: list[str] = []
    whole = yield from copy_string(reader, raw.append)
    if not whole:
        return None
    try:
        text: str = json.loads("".join(raw))
    except ValueError:  # an escape that JSON does not know
        text = "".join(raw)[1:-1]
    return text.encode(errors="replace").decode()


def copy_arguments(reader: Reader, give: Give, ends: Iterable[str] = ()) -> Reading[bool]:
    """A call's arguments: an object, or an object written into a string; nothing and null are no arguments."""
    begin = yield from reader.peek()
    if begin == '"' and (yield from reader.peek(2)) == '"{':
        return (yield from _unwrap(reader, give))
    if begin in ("{", "["):
        return (yield from copy_value(reader, give, ends))
    scalar: list[str] = []
    whole = yield from copy_value(reader, scalar.append, ends)
    text = "".join(scalar)
    give("{}" if whole and text in ("null", '""') else text)
    return whole


def _unwrap(reader: Reader, give: Give) -> Reading[bool]:
    """What a string says that holds JSON."""
    inner = _InnerJson(give)
    reader.take(1)
    while True:
        yield from reader.run(PLAIN_IN_STRING, inner.feed)
        head = yield from reader.peek()
        if head == '"':
            reader.take(1)
            return True
        if head != "\\":
            if not head:
                return False
            inner.feed(reader.take(1))
            continue
        escape = yield from reader.peek(2)
        if escape == "\\u":
            escape = yield from reader.peek(6)
            if re.fullmatch(r"\\u[0-9a-fA-F]{4}", escape):
                reader.take(6)
                inner.feed(chr(int(escape[2:], 16)))
                continue
        if len(escape) < 2:
            return False
        reader.take(2)
        inner.feed(SIMPLE_ESCAPES.get(escape[1], escape[1]))


class _InnerJson:
    """JSON that was written into a string: what was escaped once too little is escaped."""

    def __init__(self, give: Give) -> None:
        self._give = give
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> None:
        mended = []
        for character in text:
            if self._in_string and character < " ":
                mended.append(inside_string("\\" + character)[2:] if self._escaped else inside_string(character))
            else:
                mended.append(SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", character))
            if self._escaped:
                self._escaped = False
            elif character == "\\" and self._in_string:
                self._escaped = True
            elif character == '"':
                self._in_string = not self._in_string
        self._give("".join(mended))
