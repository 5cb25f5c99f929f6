"""Jamba, Hunyuan, Apriel and MiniMax M1, in a list or one a line:

<tool_calls>[{"name": "read_file", "arguments": {"path": "a.txt"}}]</tool_calls>
"""

from gateway.chat.tool_calls.json_calls import MarkedJson


class ListedCalls(MarkedJson):
    opening = "<tool_calls>"
    closing = "</tool_calls>"
