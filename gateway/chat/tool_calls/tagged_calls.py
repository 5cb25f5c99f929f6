"""Calls in tags: `<function=NAME><parameter=KEY>VALUE</parameter></function>` and its many relatives."""

import re
from collections.abc import Sequence
from dataclasses import replace

from gateway.chat.output_parser import OutputParser
from gateway.chat.tool_calls.frame import Frame
from gateway.chat.tool_calls.json_calls import read_calls
from gateway.chat.tool_calls.reading import Give, Reader, Reading, ReadingParser, nowhere
from gateway.chat.tool_calls.typed_values import ANY, STRING, Kinds, ObjectWriter, ParameterKinds, TypedValue
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, members
from gateway.chat.tool_calls.written_parameters import Parameter, written
from gateway.generation.grammar import Exactly, FreeText, InOrder, OneOf, Shape, Space
from gateway.generation.request import Tool

QUOTED = re.compile(r"""\s*(?:[\w-]+\s*=\s*)?(?:"([^"]*)"|'([^']*)')""")
TOOL_NAME = re.compile(r"[^\s<>{}\"']+")
CDATA = ("<![CDATA[", "]]>")


class TaggedCalls:
    """Dialects with a tag for each call and each of its parameters; values are text.

    A call is `call_opens`, its name, `name_closes`, parameters and `call_closes`. A parameter is `key_opens`, its name,
    `key_closes`, `value_opens` where there is one, the value, and `value_closes`. `sections` are marks around calls.
    """

    sections: tuple[str, ...] = ()
    call_opens: str
    name_closes: str = ">"
    call_closes: str
    key_opens: str
    key_closes: str = ">"
    value_opens: str = ""
    value_closes: str
    padding: str = ""  # white space that surrounds a value and is none of it
    between: str = "\n"  # what is written between tags
    has_cdata = False  # a value may be written as `<![CDATA[VALUE]]>`
    special_tokens: Sequence[str] = ()
    frame: Frame | None = None

    @property
    def call_begins(self) -> Sequence[str]:
        return (self.sections[0] if self.sections else self.call_opens,)

    def is_spoken_by(self, template: str) -> bool:
        return self.call_opens in template and self.key_opens in template

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        kinds = ParameterKinds(tools)
        whole = (*self.sections, self.call_closes)
        parts = (token for token in self.special_tokens if not any(token in mark for mark in whole))
        markup = (*whole, *parts)
        return ReadingParser(markup, lambda reader: self._read(reader, kinds))

    def name_in(self, header: str) -> str:
        """A call's or a parameter's name, of what stands in its tag."""
        quoted = QUOTED.match(header)
        return (quoted[1] or quoted[2] or "") if quoted else header.strip()

    def kinds_in(self, header: str, schema: Kinds) -> Kinds:
        """The types a parameter may have, where its tag says more than the tool's schema."""
        return schema

    def name_of(self, tool: str) -> str:
        """What is written in a call's tag for its name."""
        return tool

    def key_of(self, parameter: Parameter) -> str:
        """The same of a parameter's tag."""
        return parameter.name

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        if not self.sections:
            return WrittenCalls(self.call_opens, any_of(tools, self._written_call), separator=self.between)
        begins, ends = self.sections[:2]
        call = (Space(), Exactly(self.call_opens), any_of(tools, self._written_call))
        return WrittenCalls(begins, InOrder((*call, Space(), Exactly(ends))), separator=self.between)

    def _written_call(self, tool: Tool) -> Shape:
        """Behind its opening. Between tags there is the white space that the model was taught, whatever it is."""
        head = self.name_of(tool.name) + self.name_closes.rstrip("\n")
        required, optional = written(tool, self._written_parameter)
        return InOrder((Exactly(head), members(required, optional), Space(), Exactly(self.call_closes)))

    def _written_parameter(self, parameter: Parameter) -> Shape:
        head: tuple[Shape, ...] = (Space(), Exactly(self.key_opens + self.key_of(parameter) + self.key_closes))
        if self.value_opens:
            head = (*head, Space(), Exactly(self.value_opens))
        return InOrder((*head, self._written_value(parameter)))

    def _written_value(self, parameter: Parameter) -> Shape:
        """Up to and with its closing, which may stand within CDATA."""
        value = parameter.text(self.padding, self.value_closes, self._forgotten)
        if not self.has_cdata or not isinstance(value, FreeText):
            return value
        quoted = InOrder((Exactly(CDATA[0]), FreeText(until=CDATA[1]), Exactly(self.value_closes)))
        return OneOf((quoted, replace(value, not_beginning=(CDATA[0],))))

    @property
    def _forgotten(self) -> Sequence[str]:
        """Some models forget to close a value before the next tag, which then stands on a line of its own."""
        return (f"\n{self.key_opens}", f"\n{self.call_closes}") if self.padding else ()

    def _read(self, reader: Reader, kinds: ParameterKinds) -> Reading[None]:
        while (yield from reader.say_until((self.call_opens,))):
            reader.interrupt()
            reader.take(len(self.call_opens))
            yield from self._read_call(reader, kinds)

    def _read_call(self, reader: Reader, kinds: ParameterKinds) -> Reading[None]:
        header: list[str] = []
        yield from reader.skip_space()
        if (yield from reader.peek()) == "{":
            yield from read_calls(reader, (self.call_closes, self.call_opens))
            return
        mark = yield from reader.until((self.name_closes, self.key_opens, self.call_closes, "\n"), header.append)
        if not mark:
            return
        yield from reader.skip((self.name_closes,))
        name = self.name_in("".join(header))
        if not TOOL_NAME.fullmatch(name):
            reader.say_read("".join(header))
            return
        reader.begin(name)
        arguments = ObjectWriter(reader.argue)
        between: list[str] = []
        ends = (self.call_closes, self.call_opens)
        while (mark := (yield from reader.until((self.key_opens, *ends), between.append))) == self.key_opens:
            reader.take(len(mark))
            yield from self._read_parameter(reader, name, arguments, kinds)
        if not mark:
            return
        arguments.close()
        yield from reader.skip((self.call_closes,))
        reader.say_read("".join(between).strip())
        reader.interrupt()

    def _read_parameter(
        self, reader: Reader, tool: str, arguments: ObjectWriter, kinds: ParameterKinds
    ) -> Reading[None]:
        header: list[str] = []
        if not (yield from reader.until((self.key_closes,), header.append)):
            return
        reader.take(len(self.key_closes))
        key = self.name_in("".join(header))
        arguments.key(key)
        if self.value_opens:
            yield from reader.skip_space()
            yield from reader.skip((self.value_opens,))
        yield from self._read_value(reader, arguments.value, self.kinds_in("".join(header), kinds.of(tool, key)))

    def _read_value(self, reader: Reader, give: Give, kinds: Kinds) -> Reading[None]:
        closes = self.value_closes
        if self.has_cdata and (yield from reader.skip((CDATA[0],))):
            kinds, closes = STRING if "string" in kinds else kinds, CDATA[1]
        yield from reader.skip((self.padding,))
        value = TypedValue(kinds, give)
        mark = yield from reader.until((self.padding + closes, closes, *self._forgotten), value.feed)
        if not mark:
            return
        value.finish()
        if mark in self._forgotten:
            return
        reader.take(len(mark))
        if closes == CDATA[1]:
            yield from reader.until((self.value_closes,), nowhere)
            yield from reader.skip((self.value_closes,))


DECLARED_KINDS: dict[str, Kinds] = {kind: frozenset({kind}) for kind in ANY}
"""For tags that name the type of their value."""
