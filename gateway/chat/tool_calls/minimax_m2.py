"""MiniMax M2:

<minimax:tool_call>
<invoke name="read_file">
<parameter name="path">a.txt</parameter>
</invoke>
</minimax:tool_call>
"""

from gateway.chat.tool_calls.tagged_calls import TaggedCalls
from gateway.chat.tool_calls.written_parameters import Parameter


class MiniMaxM2(TaggedCalls):
    sections = ("<minimax:tool_call>", "</minimax:tool_call>")
    call_opens = "<invoke name="
    call_closes = "</invoke>"
    key_opens = "<parameter name="
    value_closes = "</parameter>"
    special_tokens = sections

    def is_spoken_by(self, template: str) -> bool:
        return "<minimax:tool_call>" in template

    def name_of(self, tool: str) -> str:
        return f'"{tool}"'

    def key_of(self, parameter: Parameter) -> str:
        return f'"{parameter.name}"'
