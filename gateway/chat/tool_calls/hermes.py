"""Hermes, Qwen 2.5 and 3, Granite 4 and many more:

<tool_call>
{"name": "read_file", "arguments": {"path": "a.txt"}}
</tool_call>
"""

from collections.abc import Sequence

from gateway.chat.tool_calls.json_calls import MarkedJson
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of
from gateway.generation.grammar import Exactly, InOrder
from gateway.generation.request import Tool


class Hermes(MarkedJson):
    opening = "<tool_call>"
    closing = "</tool_call>"

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        rest = InOrder((Exactly("\n"), any_of(tools), Exactly(f"\n{self.closing}")))
        return WrittenCalls(self.opening, rest, separator="\n")
