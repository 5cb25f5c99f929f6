"""Gemma 4: `<|tool_call>call:read_file{path:<|"|>a.txt<|"|>,lines:[1,20]}<tool_call|>`."""

from gateway.chat.tool_calls.function_calls import CallSyntax
from gateway.chat.tool_calls.literals import Quotes
from gateway.chat.tool_calls.marked_functions import MarkedFunctions


class Gemma4(MarkedFunctions):
    opening = "<|tool_call>"
    prefix = "call:"
    closing = "<tool_call|>"
    syntax = CallSyntax("{", ":", "}", Quotes(('<|"|>',), escapes=False))
