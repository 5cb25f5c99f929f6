"""Kimi K3, which frames its words too, and whose parameters name their types (here in lines, in truth without):

<|open|>response<|sep|>I look.<|close|>response<|sep|><|open|>tools<|sep|>
<|open|>call tool="read_file" index="1"<|sep|>
<|open|>argument key="path" type="string"<|sep|>a.txt<|close|>argument<|sep|>
<|close|>call<|sep|><|close|>tools<|sep|>
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from gateway.chat.tool_calls.frame import Frame
from gateway.chat.tool_calls.tagged_calls import DECLARED_KINDS, TaggedCalls
from gateway.chat.tool_calls.typed_values import NUMBERS, Kinds, kinds_of
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, members, numbered
from gateway.chat.tool_calls.written_parameters import Parameter, written
from gateway.generation.grammar import Exactly, InOrder, OneOf, Shape
from gateway.generation.request import Tool

OPEN, SEP, CLOSE = "<|open|>", "<|sep|>", "<|close|>"
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
    special_tokens = (OPEN, SEP, CLOSE, "<|end_of_msg|>")
    frame = Frame(*sections[:2])

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
        """The calls of a section. All marks are in parts, which are special tokens of Kimi K3."""

        def numbered_call(number: Shape) -> Shape:
            def named(tool: Tool) -> Shape:
                head = (Exactly(f'call tool="{_attribute(tool.name)}" index="'), number, Exactly('"'), Exactly(SEP))
                required, optional = written(tool, self._written_parameter)
                return InOrder((*head, members(required, optional), *_tag(CLOSE, "call")))

            return InOrder((Exactly(OPEN), any_of(tools, named)))

        calls = numbered(numbered_call, 1, parallel=parallel)
        return WrittenCalls(OPEN, InOrder((Exactly("tools"), Exactly(SEP), calls, *_tag(CLOSE, "tools"))))

    def _written_parameter(self, parameter: Parameter) -> Shape:
        """Of each type that it may have."""
        return OneOf(tuple(self._of_type(parameter, name) for name in _types(parameter)))

    def _of_type(self, parameter: Parameter, name: str) -> Shape:
        head = Exactly(f'argument key="{_attribute(parameter.name)}" type="{name}"')
        value = _narrowed(parameter, name).text("", CLOSE, ())
        return InOrder((Exactly(OPEN), head, Exactly(SEP), value, Exactly("argument"), Exactly(SEP)))


def _types(parameter: Parameter) -> Sequence[str]:
    """Integers are numbers."""
    return sorted({"number" if kind == "integer" else kind for kind in parameter.kinds})


def _narrowed(parameter: Parameter, name: str) -> Parameter:
    """The same, with values of this type only."""
    kinds = parameter.kinds & (NUMBERS if name == "number" else {name})
    if len(kinds) == len(parameter.kinds):
        return parameter
    schema = parameter.schema if isinstance(parameter.schema, dict) else {}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return replace(parameter, schema={"enum": [each for each in values if kinds_of(each) & kinds]}, kinds=kinds)
    named = "integer" if "number" not in kinds and name == "number" else name
    return replace(parameter, schema=schema | {"type": named}, kinds=kinds)


def _tag(mark: str, name: str) -> Sequence[Shape]:
    return (Exactly(mark), Exactly(name), Exactly(SEP))


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")
