"""DeepSeek V3.2, whose parameters say whether they are strings:

<｜DSML｜function_calls>
<｜DSML｜invoke name="read_file">
<｜DSML｜parameter name="path" string="true">a.txt</｜DSML｜parameter>
</｜DSML｜invoke>
</｜DSML｜function_calls>
"""

from gateway.chat.tool_calls.tagged_calls import TaggedCalls
from gateway.chat.tool_calls.typed_values import STRING, Kinds
from gateway.chat.tool_calls.written_parameters import Parameter


class DeepSeekV32(TaggedCalls):
    sections = ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>")
    call_opens = "<｜DSML｜invoke name="
    call_closes = "</｜DSML｜invoke>"
    key_opens = "<｜DSML｜parameter name="
    value_closes = "</｜DSML｜parameter>"
    special_tokens = ("｜DSML｜",)

    def is_spoken_by(self, template: str) -> bool:
        return "｜DSML｜" in template

    def kinds_in(self, header: str, schema: Kinds) -> Kinds:
        if 'string="true"' in header:
            return STRING
        return schema - STRING or schema if 'string="false"' in header else schema

    def name_of(self, tool: str) -> str:
        return f'"{tool}"'

    def key_of(self, parameter: Parameter) -> str:
        return f'"{parameter.name}" string="{str(parameter.kinds == STRING).lower()}"'
