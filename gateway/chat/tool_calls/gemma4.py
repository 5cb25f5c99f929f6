"""Gemma 4: `<|tool_call>call:read_file{path:<|"|>a.txt<|"|>,lines:[1,20]}<tool_call|>`."""

from gateway.chat.tool_calls.function_calls import CallSyntax
from gateway.chat.tool_calls.gemma_calls import GemmaCalls
from gateway.chat.tool_calls.literals import Quotes


class Gemma4(GemmaCalls):
    opening = "<|tool_call>"
    closing = "<tool_call|>"
    syntax = CallSyntax("{", ":", "}", Quotes(('<|"|>',), escapes=False))
