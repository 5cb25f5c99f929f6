"""Gemma's calls: `call:read_file{path:<escape>a.txt<escape>,lines:[1,20]}`, each between two marks of its own."""

from collections.abc import Sequence

from gateway.chat.tool_calls.gemma_values import CannotSay, GemmaValues
from gateway.chat.tool_calls.marked_functions import MarkedFunctions
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, object_schema
from gateway.engine.json_schema_form import enforceable
from gateway.errors import UnsupportedParameter
from gateway.generation.grammar import Exactly, InOrder, Shape
from gateway.generation.request import Tool


class GemmaCalls(MarkedFunctions):
    prefix = "call:"

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        return WrittenCalls(self.opening, InOrder((any_of(tools, self._call), Exactly(self.closing))), separator="")

    def _call(self, tool: Tool) -> Shape:
        """Of a tool that is not strict, with any arguments where its schema has no shape."""
        schema = enforceable(object_schema(tool))
        values = GemmaValues(self.syntax.quotes.marks[0], tool.param, schema, strict=tool.strict)
        try:
            arguments = values.value(schema)
        except CannotSay as what:
            if tool.strict:
                raise UnsupportedParameter(
                    f"The JSON schema of {tool.name} uses {what}, which this server cannot enforce in the way in which "
                    "this model calls tools. Leave it out.",
                    tool.param,
                ) from what
            arguments = values.any_object()
        return InOrder((Exactly(f"{self.prefix}{tool.name}"), arguments))
