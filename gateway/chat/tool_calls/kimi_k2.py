"""Kimi K2, whose ids number the calls:

<|tool_calls_section_begin|><|tool_call_begin|>functions.read_file:0<|tool_call_argument_begin|>{"path": "a.txt"}
<|tool_call_end|><|tool_calls_section_end|>
"""

import re

from gateway.chat.tool_calls.named_json import NamedJson

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

    def header(self, name: str) -> str:
        # The number is part of an id, which templates make anew; one grammar cannot count.
        return f"functions.{name}:0"
