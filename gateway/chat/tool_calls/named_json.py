"""Dialects that write a call's name before its arguments' JSON: `NAME<mark>{"path": "a.txt"}`."""

from collections.abc import Sequence

from gateway.chat.output_parser import OutputParser
from gateway.chat.tool_calls.json_values import copy_arguments
from gateway.chat.tool_calls.reading import Reader, Reading, ReadingParser
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, arguments, listed
from gateway.generation.grammar import Exactly, InOrder, Shape
from gateway.generation.request import Tool


class NamedJson:
    """A call is `opening`, a header with its name, an object, and perhaps `closing`; `sections` stand around calls."""

    sections: tuple[str, ...] = ()
    opening: str
    separator: str
    closing: str = ""
    frame = None

    @property
    def special_tokens(self) -> Sequence[str]:
        return tuple(mark for mark in (*self.sections, self.opening, self.separator, self.closing) if mark)

    @property
    def call_begins(self) -> Sequence[str]:
        return (self.sections[0] if self.sections else self.opening,)

    def is_spoken_by(self, template: str) -> bool:
        return self.opening in template

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return ReadingParser(self.special_tokens, self._read)

    def name_in(self, header: str) -> str:
        """Of all that stands between the opening and the arguments."""
        return header.split(self.separator)[0].strip()

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        def named(tool: Tool) -> Shape:
            marks = (Exactly(tool.name), Exactly(self.separator))
            return InOrder((*marks, arguments(tool), *([Exactly(self.closing)] if self.closing else [])))

        call = any_of(tools, named)
        if not self.sections:
            return WrittenCalls(self.opening, call, separator="")
        begins, ends = self.sections
        opened = InOrder((Exactly(self.opening), call))
        return WrittenCalls(begins, InOrder((listed(opened, "", parallel=parallel), Exactly(ends))))

    def _read(self, reader: Reader) -> Reading[None]:
        while (yield from reader.say_until((self.opening,))):
            reader.interrupt()
            reader.take(len(self.opening))
            yield from read_named_call(self, reader)


def read_named_call(dialect: NamedJson, reader: Reader) -> Reading[None]:
    """The opening was taken; what follows the arguments is left."""
    header: list[str] = []
    ends = tuple(mark for mark in (*dialect.sections, dialect.opening, dialect.closing) if mark)
    mark = yield from reader.until(("{", *ends), header.append)
    name = dialect.name_in("".join(header))
    if not mark:
        return
    if not name or any(character.isspace() for character in name):
        reader.say_read("".join(header))
        return
    reader.begin(name)
    if mark != "{":
        reader.argue("{}")
    elif (yield from copy_arguments(reader, reader.argue, ends)):
        yield from reader.pass_space()
        yield from reader.skip(("```",))
