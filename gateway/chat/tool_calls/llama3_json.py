"""Llama 3.1 to 3.3: an object with or without a mark before it, several behind each other or divided by `;`; and
Llama 4, if its own template is used, with other marks:

<|python_tag|>{"name": "read_file", "parameters": {"path": "a.txt"}}; {"name": "list_files", "parameters": {}}

<|python_start|>{"name": "read_file", "parameters": {"path": "a.txt"}}<|python_end|>
"""

import json
from collections.abc import Sequence

from gateway.chat.output_parser import OutputParser
from gateway.chat.tool_calls.json_calls import read_call, read_calls
from gateway.chat.tool_calls.reading import Reader, Reading, ReadingParser
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, arguments, one_json_call
from gateway.generation.grammar import Exactly, InOrder, Shape
from gateway.generation.request import Tool


class Llama3Json:
    opening = "<|python_tag|>"
    separator = ";"
    marks = (opening, "<|python_start|>", "<|python_end|>")
    special_tokens = marks
    frame = None
    call_begins = ()

    def is_spoken_by(self, template: str) -> bool:
        return self.opening in template or ("dictionary of argument name" in template and "ipython" in template)

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        known = frozenset(tool.name for tool in tools)
        return ReadingParser(self.special_tokens, lambda reader: self._read(reader, known))

    def _read(self, reader: Reader, known: frozenset[str]) -> Reading[None]:
        while mark := (yield from reader.say_until((*self.marks, "{"))):
            if mark in self.marks:
                reader.interrupt()
                reader.take(len(mark))
                yield from read_calls(reader, self.marks)
            elif not reader.on_new_line:
                reader.say(reader.take(1))
            elif (yield from read_call(reader, self.marks, known)):
                yield from self._read_more(reader, known)

    def _read_more(self, reader: Reader, known: frozenset[str]) -> Reading[None]:
        called = True
        while called:
            yield from reader.pass_space()
            yield from reader.skip((self.separator,))
            yield from reader.pass_space()
            called = (yield from reader.peek()) == "{" and (yield from read_call(reader, self.marks, known))

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        """Without the mark, which a template asks for with tools of its own only."""
        opening = '{"name": "'
        as_json = any_of(tools, lambda tool: one_json_call(tool, "parameters"))
        return WrittenCalls(opening, any_of(tools, _call), f"{self.separator} ", (opening,), as_json)


def _call(tool: Tool) -> Shape:
    name = json.dumps(tool.name)[1:]
    return InOrder((Exactly(f'{name}, "parameters": '), arguments(tool), Exactly("}")))
