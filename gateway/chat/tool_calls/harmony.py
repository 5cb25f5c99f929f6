"""gpt-oss (https://cookbook.openai.com/articles/openai-harmony): messages in channels, also without tools.

<|channel|>analysis<|message|>I should look.<|end|><|start|>assistant<|channel|>commentary to=functions.read_file
<|constrain|>json<|message|>{"path": "a.txt"}<|call|>

<|channel|>final<|message|>Done.<|return|>

What `analysis` says is reasoning, a message to a function is a call, all else is for the reader.
"""

import re
from collections.abc import Sequence

from gateway.chat.output_parser import OutputParser
from gateway.chat.reasoning import ReasoningMarks
from gateway.chat.tool_calls.frame import Frame
from gateway.chat.tool_calls.json_values import copy_arguments
from gateway.chat.tool_calls.reading import Reader, Reading, ReadingParser, nowhere
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, arguments
from gateway.generation.grammar import Exactly, InOrder, Shape
from gateway.generation.request import Tool

RECIPIENT = re.compile(r"\bto=([^\s<]+)")


class Harmony:
    start = "<|start|>"
    channel = "<|channel|>"
    constrain = "<|constrain|>"
    opening = "<|message|>"
    closing = "<|call|>"
    ends = ("<|end|>", "<|return|>", closing)
    special_tokens: tuple[str, ...] = (start, channel, constrain, opening, *ends)
    thought = ReasoningMarks(f"{channel}analysis{opening}", f"{ends[0]}{start}assistant", special_tokens)
    frame = Frame(f"{channel}final{opening}", thought=thought)
    call_begins: Sequence[str] = (f"{channel}commentary to=", f"{channel}analysis to=", f"{start}assistant to=")

    def is_spoken_by(self, template: str) -> bool:
        return self.channel in template and self.opening in template

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return ReadingParser(self.special_tokens, lambda reader: self._read(reader, may_call=bool(tools)))

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        """One call: the mark behind it ends the answer. All marks are special tokens of gpt-oss."""

        def call(tool: Tool) -> Shape:
            marks = (Exactly(self.constrain), Exactly("json"), Exactly(self.opening))
            return InOrder((Exactly(f"commentary to=functions.{tool.name} "), *marks, arguments(tool)))

        return WrittenCalls(self.channel, any_of(tools, call))

    def _read(self, reader: Reader, *, may_call: bool) -> Reading[None]:
        while (yield from reader.say_until((self.start, self.channel, self.opening))):
            reader.interrupt()
            yield from self._read_message(reader, may_call=may_call)

    def _read_message(self, reader: Reader, *, may_call: bool) -> Reading[None]:
        header: list[str] = []
        mark = yield from reader.until((self.opening, *self.ends), header.append)
        reader.take(len(mark))
        if mark != self.opening:
            return
        described = "".join(header)
        recipient = RECIPIENT.search(described)
        over = (self.start, self.channel, *self.ends)
        if recipient and may_call:
            reader.begin(recipient[1].removeprefix("functions."))
            yield from reader.skip_space()
            is_json = (yield from reader.peek()) in ("{", '"')
            if is_json:
                yield from copy_arguments(reader, reader.argue, over)
            elif (yield from reader.begins_with(over)):
                reader.argue("{}")
            yield from reader.until(over, nowhere if is_json else reader.argue)
        elif "analysis" in described:
            reader.thinking = True
            yield from reader.until(over, reader.think)
            reader.thinking = False
        else:
            yield from reader.say_until(over)
