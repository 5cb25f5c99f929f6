"""LongCat:

<longcat_tool_call>read_file
<longcat_arg_key>path</longcat_arg_key>
<longcat_arg_value>a.txt</longcat_arg_value>
</longcat_tool_call>
"""

from gateway.chat.tool_calls.tagged_calls import TaggedCalls


class LongCat(TaggedCalls):
    call_opens = "<longcat_tool_call>"
    name_closes = "\n"
    call_closes = "</longcat_tool_call>"
    key_opens = "<longcat_arg_key>"
    key_closes = "</longcat_arg_key>"
    value_opens = "<longcat_arg_value>"
    value_closes = "</longcat_arg_value>"
    special_tokens = (call_opens, call_closes, key_opens, key_closes, value_opens, value_closes)

    def is_spoken_by(self, template: str) -> bool:
        return self.call_opens in template
