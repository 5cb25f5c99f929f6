"""Phi-4-mini: `<|tool_call|>[{"name": "read_file", "arguments": {"path": "a.txt"}}]<|/tool_call|>`."""

from gateway.chat.tool_calls.json_calls import MarkedJson


class Phi4Mini(MarkedJson):
    opening = "<|tool_call|>"
    closing = "<|/tool_call|>"

    def is_spoken_by(self, template: str) -> bool:
        return "<|/tool_call|>" in template or "<|/tool|>" in template
