"""Muse Spark:

<atem:function_calls><atem:invoke name="read_file">
<atem:parameter name="path">a.txt</atem:parameter>
</atem:invoke></atem:function_calls>
"""

from gateway.chat.tool_calls.tagged_calls import TaggedCalls
from gateway.chat.tool_calls.written_parameters import Parameter


class Muse(TaggedCalls):
    sections = ("<atem:function_calls>", "</atem:function_calls>")
    call_opens = "<atem:invoke "
    call_closes = "</atem:invoke>"
    key_opens = "<atem:parameter "
    value_closes = "</atem:parameter>"
    special_tokens = sections

    def is_spoken_by(self, template: str) -> bool:
        return "<atem:function_calls>" in template

    def name_of(self, tool: str) -> str:
        return f'name="{tool}"'

    def key_of(self, parameter: Parameter) -> str:
        return f'name="{parameter.name}"'
