"""FunctionGemma: `<start_function_call>call:read_file{path:<escape>a.txt<escape>,lines:20}<end_function_call>`."""

from gateway.chat.tool_calls.function_calls import CallSyntax
from gateway.chat.tool_calls.gemma_calls import GemmaCalls
from gateway.chat.tool_calls.literals import Quotes


class FunctionGemma(GemmaCalls):
    opening = "<start_function_call>"
    closing = "<end_function_call>"
    syntax = CallSyntax("{", ":", "}", Quotes(("<escape>",), escapes=False))
