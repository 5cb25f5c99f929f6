"""Calls as JSON objects with a name and arguments, one or many, mostly between two marks."""

from collections.abc import Collection, Iterable, Sequence

from gateway.chat.output_parser import OutputParser
from gateway.chat.tool_calls.frame import Frame
from gateway.chat.tool_calls.json_values import copy_arguments, copy_value, read_string
from gateway.chat.tool_calls.reading import Reader, Reading, ReadingParser, nowhere
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, listed
from gateway.generation.grammar import Exactly, InOrder
from gateway.generation.request import Tool

NAME_KEYS = frozenset({"name", "tool_name", "function"})
ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
OTHER_KEYS = frozenset({"type", "id", "tool_call_id"})


class MarkedJson:
    """Dialects with `{"name": .., "arguments": ..}`, one or a list of them, behind a mark.

    `ignored` are marks around the text for the reader. Without a `closing` a call ends with its JSON.
    """

    opening: str
    closing: str = ""
    ignored: tuple[str, ...] = ()
    frame: Frame | None = None

    @property
    def special_tokens(self) -> tuple[str, ...]:
        return tuple(mark for mark in (self.opening, self.closing, *self.ignored) if mark)

    @property
    def call_begins(self) -> Sequence[str]:
        return (self.opening,)

    def is_spoken_by(self, template: str) -> bool:
        return self.opening in template

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return ReadingParser(self.special_tokens, self._read)

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        """As a list between the marks."""
        calls = listed(any_of(tools), ", ", parallel=parallel)
        return WrittenCalls(self.opening, InOrder((Exactly("["), calls, Exactly(f"]{self.closing}"))))

    def _read(self, reader: Reader) -> Reading[None]:
        while (yield from reader.say_until((self.opening,))):
            reader.interrupt()
            reader.take(len(self.opening))
            yield from read_calls(reader, (self.opening, self.closing))


def read_calls(reader: Reader, ends: Iterable[str], known: Collection[str] | None = None) -> Reading[None]:
    """All objects that follow each other here, in a list or without one, up to what is none."""
    while True:
        yield from reader.pass_space()
        head = yield from reader.peek()
        if head == "{":
            if not (yield from read_call(reader, ends, known)):
                return
        elif head and head in "[],;}":
            reader.take(1)
        else:
            return


def read_call(reader: Reader, ends: Iterable[str], known: Collection[str] | None = None) -> Reading[bool]:
    """One object; whether it was a call. If not, it is said.

    With `known` names no mark says that this is a call: it is one if it names one of these, or has arguments too.
    """
    call = _Call(reader, tuple(ends), known)
    reader.remember()
    depth = 0
    head = "{"
    while head and not call.is_none:
        yield from reader.skip_space()
        head = yield from reader.peek()
        if head == "{":
            depth += 1
            reader.take(1)
        elif head == "}":
            depth -= 1
            reader.take(1)
            if not depth:
                break
        elif head == ",":
            reader.take(1)
        elif head == '"':
            yield from call.read_member()
        elif head:
            break
    return call.end(cut=not head)


class _Call:
    def __init__(self, reader: Reader, ends: tuple[str, ...], known: Collection[str] | None) -> None:
        self.is_none = False
        self._reader = reader
        self._ends = ends
        self._known = known
        self._name = ""
        self._begun = False
        self._arguments: list[str] = []  # those that came before the name
        self._has_arguments = False

    def read_member(self) -> Reading[None]:
        reader = self._reader
        key = yield from read_string(reader)
        yield from reader.skip_space()
        if (yield from reader.peek()) != ":":
            return
        reader.take(1)
        yield from reader.skip_space()
        head = yield from reader.peek()
        if key in NAME_KEYS and head == '"' and not self._name:
            self._name = (yield from read_string(reader)) or ""
            if self._known is None or self._name in self._known or self._has_arguments:
                self._begin()
        elif key == "function" and head == "{":
            return  # the name and arguments are inside
        elif key in ARGUMENT_KEYS and not self._has_arguments:
            self._begin()
            self._has_arguments = True
            yield from copy_arguments(reader, reader.argue if self._begun else self._arguments.append, self._ends)
        else:
            self.is_none = self._known is not None and not self._begun and key not in OTHER_KEYS
            if not self.is_none:
                yield from copy_value(reader, nowhere, self._ends)

    def _begin(self) -> None:
        if self._name and not self._begun:
            self._begun = True
            self._reader.begin(self._name)
            self._reader.argue("".join(self._arguments))

    def end(self, *, cut: bool) -> bool:
        """A call that the end of the answer cut before its name was known is no text either."""
        raw = self._reader.remembered()
        if self._begun:
            if not self._has_arguments and not cut:
                self._reader.argue("{}")
            return True
        if self._known is not None or not cut:
            self._reader.say_read(raw)
        return False
