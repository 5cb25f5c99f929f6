"""What an answer must look like, by all that its request asks: reasoning, calls of tools, and a form. Pure.

Nothing is asked for where the model may write what it likes: such answers need no grammar.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from gateway.chat.output_format import OutputFormat
from gateway.chat.reasoning import ReasoningMarks
from gateway.chat.tool_calls.dialect import ToolDialect
from gateway.chat.tool_calls.written_calls import WrittenCalls
from gateway.errors import UnsupportedParameter
from gateway.generation.grammar import NOTHING, Exactly, FreeText, InOrder, OneOf, Repeated, Shape
from gateway.generation.request import Conversation, Grammar, Thinking, Tool

SPACE = OneOf((Exactly("\n\n"), Exactly("\n"), NOTHING))
"""What may stand behind the reasoning before something that is no free text."""


def answer_shape(
    output: OutputFormat, conversation: Conversation, form: Grammar | None, prompt_end: str
) -> Shape | None:
    """Of one answer to a prompt whose text ends so; `form` is what its text must match. None if it may be anything.

    Raises `UnsupportedParameter` where a call is asked for that cannot be enforced.
    """
    if output.reasoning is None:
        return _behind_reasoning(output, conversation, form, ())
    special = tuple(output.calls.special_tokens) if output.calls else ()
    reasoning = _Reasoning(output.reasoning, conversation.thinking, prompt_end, special)
    behind = _behind_reasoning(output, conversation, form, reasoning.not_beginning)
    return reasoning.before(behind)


class _Reasoning:
    """What comes before the answer proper, of a model that reasons."""

    def __init__(self, marks: ReasoningMarks, thinking: Thinking, prompt_end: str, special: tuple[str, ...]) -> None:
        self._marks = marks
        self._special = special  # tokens that the answer behind it may hold
        self._opening = _in_tokens(marks.opening, marks.tokens)
        self._closing = _in_tokens(marks.closing, marks.tokens)
        self._budget = thinking.budget_tokens
        self._opened = marks.opened_in(prompt_end)
        self._over = prompt_end.rstrip().endswith(marks.closing)
        self._unwanted = thinking.enabled is False or self._budget == 0

    @property
    def not_beginning(self) -> tuple[str, ...]:
        """What a text may not begin with: it would be reasoning that nobody counts."""
        return () if self._opened or self._over else (self._marks.opening,)

    def before(self, behind: Shape | None) -> Shape | None:
        if self._over:
            return behind
        if behind is None and not self._unwanted and self._budget is None:
            return None
        text = behind or FreeText(not_beginning=self.not_beginning, special=self._special)
        if self._opened:
            return InOrder((*(self._closing if self._unwanted else self._limited()), SPACE, text))
        if self._unwanted:
            return text
        return OneOf((InOrder((*self._opening, *self._limited(), SPACE, text)), text))

    def _limited(self) -> Sequence[Shape]:
        first, *rest = self._closing
        return (FreeText(until=first.text, most_tokens=self._budget), *rest)


def _in_tokens(mark: str, tokens: Sequence[str]) -> Sequence[Exactly]:
    """A mark in the special tokens that are parts of it and the text between them."""
    parts = re.split(f"({'|'.join(re.escape(token) for token in tokens)})", mark)
    return [Exactly(part) for part in parts if part]


def _behind_reasoning(
    output: OutputFormat, conversation: Conversation, form: Grammar | None, not_beginning: tuple[str, ...]
) -> Shape | None:
    tools, mode = _callable(conversation), conversation.tool_choice.mode
    if not tools or output.calls is None:
        return form
    parallel = conversation.parallel_tool_calls
    if mode == "required":
        calls = output.calls.written([replace(tool, strict=True) for tool in tools], parallel=parallel)
        if calls is None:
            raise UnsupportedParameter("This model's tool calls cannot be enforced; let it choose.", "tool_choice")
        return calls.alone(parallel=parallel)
    calls = output.calls.written(tools, parallel=parallel)
    if mode == "none" and (form or calls is None or output.calls.frames_every_answer):
        return form or _framed_text(output.calls, not_beginning)
    if calls is None:
        if strict := next((tool for tool in tools if tool.strict), None):
            raise UnsupportedParameter(
                f"This model's tool calls cannot be enforced, so {strict.name} cannot be strict.", strict.param
            )
        return form
    if mode == "none":
        return _without_calls(calls, not_beginning)
    if form:
        return OneOf((calls.beside_json or calls.alone(parallel=parallel), form))
    if calls.only_first:
        return OneOf((calls.alone(parallel=parallel), _without_calls(calls, not_beginning)))
    if output.calls.frames_every_answer:
        text = _framed_text(output.calls, not_beginning)
        return _text_and_calls(calls, text, parallel=parallel)
    return _text_and_calls(calls, FreeText(not_beginning=not_beginning), parallel=parallel)


def _callable(conversation: Conversation) -> Sequence[Tool]:
    names = conversation.tool_choice.names
    return [tool for tool in conversation.tools if not names or tool.name in names]


def _without_calls(calls: WrittenCalls, not_beginning: tuple[str, ...]) -> FreeText:
    if calls.only_first:
        return FreeText(not_beginning=(*not_beginning, *calls.marks))
    return FreeText(without=(calls.opening,), not_beginning=not_beginning)


def _framed_text(dialect: ToolDialect, not_beginning: tuple[str, ...]) -> FreeText:
    """Text with the marks that stand in every answer, and without calls."""
    return FreeText(
        without=tuple(dialect.call_begins), not_beginning=not_beginning, special=tuple(dialect.special_tokens)
    )


def _text_and_calls(calls: WrittenCalls, before: FreeText, *, parallel: bool) -> Shape:
    """Text in which a grammar holds each call from its opening on; after an only call the answer ends."""
    called = InOrder((replace(before, until=calls.opening), calls.rest))
    text = before if before.special else _without_calls(calls, before.not_beginning)
    return InOrder((Repeated(called), text)) if parallel else OneOf((called, text))
