"""Mistral, in its older and its newer way:

[TOOL_CALLS] [{"name": "read_file", "arguments": {"path": "a.txt"}, "id": "a1B2c3D4e"}]

[TOOL_CALLS]read_file[ARGS]{"path": "a.txt"}[TOOL_CALLS]list_files[CALL_ID]a1B2c3D4e[ARGS]{}
"""

from collections.abc import Sequence

from gateway.chat.tool_calls.json_calls import read_calls
from gateway.chat.tool_calls.named_json import NamedJson, read_named_call
from gateway.chat.tool_calls.reading import Reader, Reading
from gateway.chat.tool_calls.written_calls import WrittenCalls, any_of, listed
from gateway.generation.grammar import Exactly, InOrder
from gateway.generation.request import Tool


class Mistral(NamedJson):
    opening = "[TOOL_CALLS]"
    separator = "[ARGS]"
    call_id = "[CALL_ID]"

    @property
    def special_tokens(self) -> tuple[str, ...]:
        return (self.opening, self.separator, self.call_id)

    def is_spoken_by(self, template: str) -> bool:
        return super().is_spoken_by(template) and self.separator in template

    def name_in(self, header: str) -> str:
        return super().name_in(header).split(self.call_id)[0].strip()

    def _read(self, reader: Reader) -> Reading[None]:
        while (yield from reader.say_until((self.opening,))):
            reader.interrupt()
            reader.take(len(self.opening))
            yield from reader.skip_space()
            head = yield from reader.peek()
            if head in ("[", "{"):
                yield from read_calls(reader, (self.opening,))
            else:
                yield from read_named_call(self, reader)


class MistralList(Mistral):
    """The older way; both are read alike."""

    def is_spoken_by(self, template: str) -> bool:
        return self.opening in template

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        calls = listed(any_of(tools), ", ", parallel=parallel)
        return WrittenCalls(self.opening, InOrder((Exactly("["), calls, Exactly("]"))))
