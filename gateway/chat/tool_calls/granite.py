"""Granite 3: `<|tool_call|>[{"name": "read_file", "arguments": {"path": "a.txt"}}]`; some write the mark as words."""

from gateway.chat.tool_calls.json_calls import MarkedJson


class Granite(MarkedJson):
    opening = "<|tool_call|>"
