"""Calls that look like those of a programming language: `f(a=1, b="x")`, `call:f{a:1,b:<escape>x<escape>}`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.chat.tool_calls.json_values import json_string
from gateway.chat.tool_calls.literals import (
    BARE,
    CLOSERS,
    WORDS,
    Quotes,
    copy_container,
    copy_quoted,
    number,
    read_bare,
    read_quoted,
)
from gateway.chat.tool_calls.reading import Give, Reader, Reading, nowhere
from gateway.chat.tool_calls.typed_values import STRING, Kinds, ObjectWriter, ParameterKinds, as_json

BLANKS = re.compile(r"[ \t]*")
NAME = re.compile(r"[\w.-]*")


@dataclass(frozen=True, slots=True)
class CallSyntax:
    opens: str
    assigns: str
    closes: str
    quotes: Quotes

    @property
    def key(self) -> re.Pattern[str]:
        """Up to what assigns: parameters have names such as `$filter`, `user.id`, `ids[]` and `@type`."""
        return re.compile(rf"[^{self.assigns}{self.closes},<\n]*")

    @property
    def plain_key(self) -> re.Pattern[str]:
        """Without what words of a text, or code, have between them."""
        return re.compile(rf"[^{self.assigns}{self.closes},<>\s(){{}}\"']*")


def read_function(
    reader: Reader, syntax: CallSyntax, kinds: ParameterKinds, ends: Sequence[str], *, marked: bool
) -> Reading[bool]:
    """One call, whose name comes next; whether it began and ended. Until it begins, `remembered` tells what was read.

    It begins once it has the shape of a call, not at its name alone. What has not, inside one, is left out, and one of
    the `ends` ends it. Where no mark said that it comes, it has no keys that could be words of a text.
    """
    name: list[str] = []
    yield from reader.run(NAME, name.append)
    if not name or (yield from reader.peek()) != syntax.opens:
        return False
    reader.take(1)
    key_pattern = syntax.key if marked else syntax.plain_key
    arguments: ObjectWriter | None = None
    while True:
        yield from reader.skip_space()
        head = yield from reader.peek()
        if head == "," and arguments:
            reader.take(1)
            continue
        key: list[str] = []
        if head != syntax.closes:
            yield from reader.run(key_pattern, key.append)
            yield from reader.run(BLANKS, nowhere)
        whole = head == syntax.closes or (bool(key) and (yield from reader.peek()) == syntax.assigns)
        if whole and not arguments:
            reader.begin("".join(name))
            arguments = ObjectWriter(reader.argue)
        if not arguments:
            return False
        if whole:
            reader.take(1)
        if head == syntax.closes:
            arguments.close()
            return True
        if whole:
            parameter = "".join(key).rstrip()
            arguments.key(parameter)
            yield from reader.skip_space()
            of_types = kinds.of("".join(name), parameter)
            whole = yield from _read_value(reader, arguments.value, syntax.quotes, of_types)
        if not whole:
            mark = yield from reader.until((",", syntax.closes, *ends), nowhere)
            if not mark:
                return False  # the answer's end cut the call
            if mark in ends:
                arguments.close()
                return True


def read_functions(
    reader: Reader, syntax: CallSyntax, kinds: ParameterKinds, ends: Sequence[str], *, marked: bool = True
) -> Reading[None]:
    """All calls that follow each other here, in a list or without one, up to what is none, which is said.

    Where a mark says that calls come, one that the answer's end cut before it began is no text either.
    """
    in_list = False
    reader.remember()
    while True:
        yield from reader.skip_space()
        head = yield from reader.peek()
        if in_list and head == "]":
            reader.take(1)
            break
        if head == "[" or (in_list and head == ","):
            in_list = True
            reader.take(1)
        elif (yield from read_function(reader, syntax, kinds, ends, marked=marked)):
            reader.remember()
        else:
            break
    read = reader.remembered()
    if not marked or (yield from reader.peek()):
        reader.say_read(read.removesuffix("]"))


def _read_value(reader: Reader, give: Give, quotes: Quotes, kinds: Kinds) -> Reading[bool]:
    """One value of a parameter that may have these types. Whether it came to its end and could be read."""
    quote = yield from reader.skip(quotes.marks)
    if quote and "string" not in kinds:
        text: list[str] = []
        whole = yield from read_quoted(reader, text.append, quote, quotes)
        give(as_json("".join(text), kinds) if whole else "")
        return whole
    if quote:
        return (yield from copy_quoted(reader, give, quote, quotes))
    head = yield from reader.peek()
    if head and head in CLOSERS:
        return (yield from copy_container(reader, give, quotes))
    bare = yield from read_bare(reader, BARE)
    if bare:
        give(_bare_as_json(bare, kinds))
    return bool(bare)


def _bare_as_json(bare: str, kinds: Kinds) -> str:
    word, kind = WORDS.get(bare.lower(), ("", ""))
    if kind and (kind in kinds or kind == "null" or "string" not in kinds):
        return word
    if kinds != STRING and (as_number := number(bare)):
        return as_number
    return json_string(bare)
