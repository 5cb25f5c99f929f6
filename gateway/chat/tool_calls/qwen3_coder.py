"""Qwen3-Coder and Nemotron 3, which at times forget the outer mark:

<tool_call>
<function=read_file>
<parameter=path>
a.txt
</parameter>
</function>
</tool_call>
"""

from gateway.chat.tool_calls.tagged_calls import TaggedCalls


class Qwen3Coder(TaggedCalls):
    sections = ("<tool_call>", "</tool_call>")
    call_opens = "<function="
    call_closes = "</function>"
    key_opens = "<parameter="
    value_closes = "</parameter>"
    padding = "\n"
    special_tokens = sections
