"""How one model's text is to be read: its reasoning, its tool calls. Found in its chat template."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.chat.output_parser import FirstCallOnly, GoingOn, OutputParser, PlainParser
from gateway.chat.reasoning import ReasoningMarks, ReasoningParser, reasoning_marks
from gateway.chat.tool_calls.dialect import ToolDialect
from gateway.chat.tool_calls.table import DEFAULT_DIALECT, dialect_of
from gateway.generation.request import Tool


@dataclass(frozen=True, slots=True)
class OutputFormat:
    reasoning: ReasoningMarks | None = None
    calls: ToolDialect | None = None

    @property
    def special_tokens(self) -> frozenset[str]:
        """Those whose text the parser must see."""
        marks = self.reasoning.tokens if self.reasoning else ()
        return frozenset((*marks, *(self.calls.special_tokens if self.calls else ())))

    def before_words(self, prompt_end: str, reasoned: str) -> str:
        """What stands between a prompt whose text ends so and an answer's words: what was reasoned, and a frame."""
        thought = self.reasoning.before_words(prompt_end, reasoned) if self.reasoning else ""
        frame = self.calls.frame if self.calls else None
        return thought + (frame.before_words(prompt_end + thought) if frame else "")

    def parser(
        self, tools: Sequence[Tool], prompt_end: str, *, parallel: bool = True, begun: str | None = None
    ) -> OutputParser:
        """For one answer to a prompt whose text ends so. It gives no calls without tools, and one unless `parallel`.

        Of an answer whose words the prompt has `begun`, it gives what comes behind these.
        """
        calls = self.calls if self.calls and (tools or self.calls.frame) else None
        parser: OutputParser = calls.parser(tools) if calls else PlainParser()
        if not parallel:
            parser = FirstCallOnly(parser)
        if begun is not None:
            return GoingOn(parser, calls.frame.opening if calls and calls.frame else "", begun)
        if self.reasoning:
            parser = ReasoningParser(self.reasoning, parser, opened=self.reasoning.opened_in(prompt_end))
        return parser


PLAIN = OutputFormat()
"""Text that goes on with a text."""


def output_format(template: str) -> OutputFormat:
    """Of a model with this chat template, as its folder has it; one that shows no calls is told how to write them."""
    return OutputFormat(reasoning_marks(template), dialect_of(template) or DEFAULT_DIALECT)
