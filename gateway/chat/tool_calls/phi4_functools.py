"""Phi-4-mini with vLLM's template: `functools[{"name": "read_file", "arguments": {"path": "a.txt"}}]`."""

from collections.abc import Sequence

from gateway.chat.tool_calls.json_calls import MarkedJson
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, listed
from gateway.generation.grammar import Exactly, InOrder
from gateway.generation.request import Tool


class Phi4Functools(MarkedJson):
    opening = "functools["

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        """The mark opens the list."""
        calls = listed(any_of(tools), ", ", parallel=parallel)
        return WrittenCalls(self.opening, InOrder((calls, Exactly("]"))))
