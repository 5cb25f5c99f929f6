"""Llama 4, Llama 3.2 and ToolACE, without a mark: `[read_file(path="a.txt"), list_files()]`."""

import re
from collections.abc import Sequence

from gateway.chat.output_parser import OutputParser
from gateway.chat.tool_calls.function_calls import CallSyntax, read_functions
from gateway.chat.tool_calls.literals import PYTHON_QUOTES
from gateway.chat.tool_calls.reading import Reader, Reading, ReadingParser
from gateway.chat.tool_calls.typed_values import ParameterKinds
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, listed
from gateway.chat.tool_calls.written_parameters import function
from gateway.generation.grammar import Exactly, InOrder
from gateway.generation.request import Tool

PYTHON = CallSyntax("(", "=", ")", PYTHON_QUOTES)
EXAMPLE = re.compile(r"\[\w+\(\w+=\w+")


class Pythonic:
    opening = "["
    separator = ", "
    closing = "]"
    marks = ("<|python_start|>", "<|python_end|>")
    special_tokens = marks
    frame = None
    call_begins = ()

    def is_spoken_by(self, template: str) -> bool:
        return EXAMPLE.search(template) is not None

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        kinds = ParameterKinds(tools)
        return ReadingParser(self.special_tokens, lambda reader: self._read(reader, kinds))

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        calls = listed(any_of(tools, function), self.separator, parallel=parallel)
        marks = tuple(f"{self.opening}{tool.name}(" for tool in tools)
        return WrittenCalls(self.opening, InOrder((calls, Exactly(self.closing))), marks=marks)

    def _read(self, reader: Reader, kinds: ParameterKinds) -> Reading[None]:
        while (yield from reader.say_until((self.opening,))):
            if reader.on_new_line:
                yield from read_functions(reader, PYTHON, kinds, (*self.marks, "\n"), marked=False)
            else:
                reader.say(reader.take(1))
