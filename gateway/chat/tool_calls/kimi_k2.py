"""Kimi K2, whose ids number the calls:

<|tool_calls_section_begin|><|tool_call_begin|>functions.read_file:0<|tool_call_argument_begin|>{"path": "a.txt"}
<|tool_call_end|><|tool_calls_section_end|>
"""

import re
from collections.abc import Sequence

from gateway.chat.tool_calls.named_json import NamedJson
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, arguments, numbered
from gateway.generation.grammar import Exactly, InOrder, Shape
from gateway.generation.request import Tool

NUMBER = re.compile(r":\d+$")


class KimiK2(NamedJson):
    sections = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
    opening = "<|tool_call_begin|>"
    separator = "<|tool_call_argument_begin|>"
    closing = "<|tool_call_end|>"

    def is_spoken_by(self, template: str) -> bool:
        # The first template of Kimi K2 does not write calls: it is known by its declaration of tools.
        return self.opening in template or "<|im_system|>tool_declare<|im_middle|>" in template

    def name_in(self, header: str) -> str:
        return NUMBER.sub("", super().name_in(header)).removeprefix("functions.")

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        def numbered_call(number: Shape) -> Shape:
            def named(tool: Tool) -> Shape:
                head = (Exactly(f"functions.{tool.name}:"), number, Exactly(self.separator))
                return InOrder((*head, arguments(tool), Exactly(self.closing)))

            return InOrder((Exactly(self.opening), any_of(tools, named)))

        begins, ends = self.sections
        return WrittenCalls(begins, InOrder((numbered(numbered_call, 0, parallel=parallel), Exactly(ends))))
