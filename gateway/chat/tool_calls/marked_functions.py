"""Dialects with calls like those of a programming language between two marks."""

from collections.abc import Sequence

from gateway.chat.output_parser import OutputParser
from gateway.chat.tool_calls.frame import Frame
from gateway.chat.tool_calls.function_calls import CallSyntax, read_functions
from gateway.chat.tool_calls.reading import Reader, Reading, ReadingParser
from gateway.chat.tool_calls.typed_values import ParameterKinds
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, listed
from gateway.chat.tool_calls.written_parameters import function
from gateway.generation.grammar import Exactly, InOrder
from gateway.generation.request import Tool


class MarkedFunctions:
    """`prefix` is what stands between the mark and the name."""

    opening: str
    closing: str
    prefix: str = ""
    separator: str = ", "
    syntax: CallSyntax
    frame: Frame | None = None

    @property
    def special_tokens(self) -> Sequence[str]:
        return (self.opening, self.closing, *(mark for mark in self.syntax.quotes.marks if len(mark) > 3))

    @property
    def call_begins(self) -> Sequence[str]:
        return (self.opening,)

    def is_spoken_by(self, template: str) -> bool:
        return self.opening in template

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        kinds = ParameterKinds(tools)
        return ReadingParser(self.special_tokens, lambda reader: self._read(reader, kinds))

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        """In brackets, with values as JSON."""
        calls = listed(any_of(tools, function), self.separator, parallel=parallel)
        begins, ends = ("\n", "\n") if "\n" in self.separator else ("[", "]")
        return WrittenCalls(self.opening, InOrder((Exactly(begins), calls, Exactly(ends), Exactly(self.closing))))

    def _read(self, reader: Reader, kinds: ParameterKinds) -> Reading[None]:
        while (yield from reader.say_until((self.opening,))):
            reader.interrupt()
            reader.take(len(self.opening))
            yield from reader.skip_space()
            yield from reader.skip((self.prefix,))
            yield from read_functions(reader, self.syntax, kinds, (self.closing, self.opening))
