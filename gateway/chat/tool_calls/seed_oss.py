"""Seed-OSS:

<seed:tool_call>
<function=read_file>
<parameter=path>a.txt</parameter>
</function>
</seed:tool_call>
"""

from gateway.chat.tool_calls.tagged_calls import TaggedCalls


class SeedOss(TaggedCalls):
    sections = ("<seed:tool_call>", "</seed:tool_call>")
    call_opens = "<function="
    call_closes = "</function>"
    key_opens = "<parameter="
    value_closes = "</parameter>"
    special_tokens = sections

    def is_spoken_by(self, template: str) -> bool:
        return "<seed:tool_call>" in template
