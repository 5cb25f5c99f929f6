"""GLM 4.5 to 4.7 and Laguna, with line breaks or without:

<tool_call>read_file
<arg_key>path</arg_key>
<arg_value>a.txt</arg_value>
</tool_call>
"""

from gateway.chat.tool_calls.tagged_calls import TaggedCalls


class Glm(TaggedCalls):
    call_opens = "<tool_call>"
    name_closes = "\n"
    call_closes = "</tool_call>"
    key_opens = "<arg_key>"
    key_closes = "</arg_key>"
    value_opens = "<arg_value>"
    value_closes = "</arg_value>"
    special_tokens = (call_opens, call_closes, key_opens, key_closes, value_opens, value_closes)
