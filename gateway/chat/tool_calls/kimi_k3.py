"""Kimi K3, which frames its words too, and whose parameters name their types (here in lines, in truth without):

<|open|>response<|sep|>I look.<|close|>response<|sep|><|open|>tools<|sep|>
<|open|>call tool="read_file" index="1"<|sep|>
<|open|>argument key="path" type="string"<|sep|>a.txt<|close|>argument<|sep|>
<|close|>call<|sep|><|close|>tools<|sep|>
"""

import re
from collections.abc import Sequence

from gateway.chat.tool_calls.tagged_calls import DECLARED_KINDS, TaggedCalls
from gateway.chat.tool_calls.typed_values import Kinds
from gateway.chat.tool_calls.written_calls import WrittenCalls
from gateway.generation.request import Tool

TYPE = re.compile(r'\btype="(\w+)"')


class KimiK3(TaggedCalls):
    sections = (
        *("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
        *("<|close|>message<|sep|>", "<|end_of_msg|>"),
    )
    call_opens = "<|open|>call "
    name_closes = "<|sep|>"
    call_closes = "<|close|>call<|sep|>"
    key_opens = "<|open|>argument "
    key_closes = "<|sep|>"
    value_closes = "<|close|>argument<|sep|>"
    special_tokens = ("<|open|>", "<|sep|>", "<|close|>", "<|end_of_msg|>")
    frames_every_answer = True

    @property
    def call_begins(self) -> Sequence[str]:
        return (self.sections[2], self.call_opens)

    def is_spoken_by(self, template: str) -> bool:
        return "<|open|>" in template and "<|sep|>" in template

    def name_in(self, header: str) -> str:
        return super().name_in(header).replace("&quot;", '"').replace("&amp;", "&")

    def kinds_in(self, header: str, schema: Kinds) -> Kinds:
        declared = TYPE.search(header)
        return DECLARED_KINDS.get(declared[1], schema) if declared else schema

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        return None  # calls stand in a frame with the words, and each has a number
