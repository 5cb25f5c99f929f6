"""What a tool-call dialect is: how one family of models writes calls, in a short file of its own beside this one."""

from collections.abc import Sequence
from typing import Protocol

from gateway.chat.output_parser import OutputParser
from gateway.chat.tool_calls.frame import Frame
from gateway.chat.tool_calls.written_calls import WrittenCalls
from gateway.generation.request import Tool


class ToolDialect(Protocol):
    """Stateless."""

    @property
    def special_tokens(self) -> Sequence[str]:
        """Those whose text the parser must see, though they are no text for the reader."""

    @property
    def frame(self) -> Frame | None:
        """Of a dialect with markup also in an answer that calls nothing."""

    @property
    def call_begins(self) -> Sequence[str]:
        """Marks of which one begins every call; nothing where no mark tells a call from a text."""

    def is_spoken_by(self, template: str) -> bool:
        """Whether a model with this chat template writes its calls so."""

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        """Of the text behind the reasoning, in an answer that may call these tools."""

    def written(self, tools: Sequence[Tool], *, parallel: bool) -> WrittenCalls | None:
        """How a grammar has calls of these tools (one at least) written; None if none can.

        Raises `UnsupportedParameter` for a strict tool whose schema cannot be enforced in calls that are written so.
        """
