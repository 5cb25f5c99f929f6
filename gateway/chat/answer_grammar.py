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

    Raises `UnsupportedParameter` where a call is asked for that cannot be enforced, or for an answer that the prompt
    has begun.
    """
    if conversation.begun is not None:
        return _going_on(output, conversation, form, conversation.begun.content)
    framed = _framed(form, output.calls, prompt_end) if form and output.calls else form
    reasoning = _reasoning(output, conversation, prompt_end, any_asked=form is not None)
    behind = _behind_reasoning(output, conversation, framed, reasoning.not_beginning if reasoning else ())
    return reasoning.before(behind) if reasoning else behind


def _reasoning(
    output: OutputFormat, conversation: Conversation, prompt_end: str, *, any_asked: bool
) -> "_Reasoning | None":
    """What may come first. Framed reasoning is a part of an answer to which all is free."""
    special = tuple(output.calls.special_tokens) if output.calls else ()
    if output.reasoning:
        return _Reasoning(output.reasoning, conversation.thinking, prompt_end, special)
    frame, thinking = output.calls.frame if output.calls else None, conversation.thinking
    limited = thinking.enabled is False or thinking.budget_tokens is not None
    if frame and frame.thought and (any_asked or limited or conversation.tool_choice.mode == "required"):
        return _Reasoning(frame.thought, thinking, "", special)
    return None


def _framed(form: Grammar, dialect: ToolDialect, prompt_end: str) -> Shape:
    """The form as the words of an answer."""
    if (frame := dialect.frame) is None:
        return form
    opening, closing = frame.before_words(prompt_end), frame.closing
    tokens = dialect.special_tokens
    return InOrder((*_in_tokens(opening, tokens), form, *_in_tokens(closing, tokens)))


def _going_on(output: OutputFormat, conversation: Conversation, form: Grammar | None, begun: str) -> Shape | None:
    """Of an answer that goes on with words, behind all reasoning."""
    if form:
        raise UnsupportedParameter(
            f"An answer that the messages begin cannot be held to {form.param}: it would begin anew. Leave out the "
            f"last message or {form.param}.",
            form.param,
        )
    tools = _callable(conversation)
    if output.calls is None or not tools:
        return None
    if mark := next((mark for mark in output.calls.call_begins if mark in begun), None):
        raise UnsupportedParameter(f"The answer cannot go on with a message that holds {mark}.", conversation.param)
    calls = output.calls.written(tools, parallel=conversation.parallel_tool_calls)
    if calls and calls.only_first:
        if conversation.tool_choice.mode == "required":
            raise UnsupportedParameter(
                "This model calls tools at the beginning of its answer only, which the messages begin; leave out the "
                "last message or let the model choose.",
                "tool_choice",
            )
        return None
    return _behind_reasoning(output, conversation, form, ())


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
    output: OutputFormat, conversation: Conversation, form: Shape | None, not_beginning: tuple[str, ...]
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
    if mode == "none" and (form or calls is None or output.calls.frame):
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
    if output.calls.frame:
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
