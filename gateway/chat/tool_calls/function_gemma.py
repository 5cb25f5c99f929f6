"""FunctionGemma: `<start_function_call>call:read_file{path:<escape>a.txt<escape>,lines:20}<end_function_call>`."""

from gateway.chat.tool_calls.function_calls import CallSyntax
from gateway.chat.tool_calls.literals import Quotes
from gateway.chat.tool_calls.marked_functions import MarkedFunctions


class FunctionGemma(MarkedFunctions):
    opening = "<start_function_call>"
    prefix = "call:"
    closing = "<end_function_call>"
    syntax = CallSyntax("{", ":", "}", Quotes(("<escape>",), escapes=False))
