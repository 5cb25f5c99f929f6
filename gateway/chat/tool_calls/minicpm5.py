"""MiniCPM5: `<function name="read_file"><param name="path">a.txt</param></function>`; a value may be CDATA."""

from gateway.chat.tool_calls.tagged_calls import TaggedCalls
from gateway.chat.tool_calls.written_parameters import Parameter


class MiniCpm5(TaggedCalls):
    call_opens = "<function name="
    call_closes = "</function>"
    key_opens = "<param name="
    value_closes = "</param>"
    between = ""
    has_cdata = True

    def name_of(self, tool: str) -> str:
        return f'"{tool}"'

    def key_of(self, parameter: Parameter) -> str:
        return f'"{parameter.name}"'
