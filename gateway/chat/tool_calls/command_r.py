"""Command R7B and Command A, which mark their words too:

<|START_ACTION|>[
    {"tool_call_id": "0", "tool_name": "read_file", "parameters": {"path": "a.txt"}}
]<|END_ACTION|>

<|START_RESPONSE|>Done.<|END_RESPONSE|>
"""

import json
from collections.abc import Sequence

from gateway.chat.tool_calls.frame import Frame
from gateway.chat.tool_calls.json_calls import MarkedJson
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, arguments, listed
from gateway.generation.grammar import Exactly, InOrder, OneOf, Shape
from gateway.generation.request import Tool


class CommandR(MarkedJson):
    opening = "<|START_ACTION|>"
    closing = "<|END_ACTION|>"
    ignored = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")
    frame = Frame("<|START_RESPONSE|>", "<|END_RESPONSE|>")

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        calls = listed(any_of(tools, _call), ",\n    ", parallel=parallel)
        return WrittenCalls(self.opening, InOrder((Exactly("[\n    "), calls, Exactly("\n]"), Exactly(self.closing))))


def _call(tool: Tool) -> Shape:
    number = OneOf(tuple(Exactly(str(digit)) for digit in range(10)))
    head = f'", "tool_name": {json.dumps(tool.name)}, "parameters": '
    return InOrder((Exactly('{"tool_call_id": "'), number, Exactly(head), arguments(tool), Exactly("}")))
