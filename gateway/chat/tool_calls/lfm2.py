"""LFM2: `<|tool_call_start|>[read_file(path="a.txt"), list_files()]<|tool_call_end|>`."""

from gateway.chat.tool_calls.marked_functions import MarkedFunctions
from gateway.chat.tool_calls.pythonic import PYTHON


class Lfm2(MarkedFunctions):
    opening = "<|tool_call_start|>"
    separator = ", "
    closing = "<|tool_call_end|>"
    syntax = PYTHON

    def is_spoken_by(self, template: str) -> bool:
        return self.opening in template or "<|tool_list_start|>" in template
