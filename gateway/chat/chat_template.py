"""A model's own chat template, and messages in the shape that templates expect."""

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jinja2 import TemplateError

from gateway.chat.short_call_ids import wants_short_ids, with_short_ids
from gateway.chat.tool_prompt import Turn, knows_tools, plain_turns
from gateway.chat.turn_forms import AS_SENT, FORMS, Form, is_even
from gateway.generation.request import Conversation, Message, Tool

TEMPLATE_FAILURES = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError)
"""A template is a program: besides refusing (and being stopped by the sandbox) it may stumble over its input."""

SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of characters, which are no text: JSON within a request, such as a call's arguments, may escape them."""

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})

OWN_OPTIONS = (
    *("conversation", "tokenize", "tokenizer_kwargs", "padding", "truncation", "max_length", "chat_template"),
    *("add_generation_prompt", "continue_final_message", "sanitize_control_tokens"),
    *("return_assistant_tokens_mask", "return_dict", "return_tensors"),
)
"""What `apply_chat_template` of transformers takes besides a template's variables; not for clients to set."""


class ChatTemplate:
    """Renders turns in jinja's sandbox. `tokenizer` is an mlx-lm `TokenizerWrapper`; `options` are variables of the
    template. One that knows no tools gets them, their calls and their results as text; all get turns in this `form`."""

    def __init__(self, tokenizer: Any, options: Mapping[str, Any] = NO_OPTIONS, form: Form = AS_SENT) -> None:
        self._tokenizer = tokenizer
        self._form = form
        text = tokenizer.chat_template
        self._without_tools = text if isinstance(text, str) and not knows_tools(text) else None
        self._short_ids = isinstance(text, str) and wants_short_ids(text)
        self._options = {name: value for name, value in options.items() if name not in OWN_OPTIONS}

    def render(self, turns: Sequence[Turn], *, answer_follows: bool = True) -> str:
        """The conversation's text, up to where the answer begins, or with its last turn as the end.

        Raises one of `TEMPLATE_FAILURES` when it does not take this conversation.
        """
        return self._render(self._form, self._plain(turns), answer_follows)

    def fitted(self, turns: Sequence[Turn]) -> "ChatTemplate":
        """The template for all renderings of this conversation, in the first form that it takes; as it is sent if none.

        One whose turns alternate is refused, if at all, for its system turn, which its first turns show.
        """
        plain = self._plain(turns)
        begins_with_system = bool(plain) and plain[0]["role"] == "system"
        if is_even(plain) and (not begins_with_system or self._takes(AS_SENT, plain[:2])):
            return self
        form = next((form for form in FORMS if self._takes(form, plain)), AS_SENT)
        return ChatTemplate(self._tokenizer, self._options, form)

    def _takes(self, form: Form, plain: Sequence[Turn]) -> bool:
        try:
            self._render(form, plain)
        except TEMPLATE_FAILURES:
            return False
        return True

    def _plain(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        if self._without_tools is None:
            return turns
        return plain_turns(turns, self._options.get("tools", ()), self._without_tools)

    def _render(self, form: Form, plain: Sequence[Turn], answer_follows: bool = True) -> str:
        written = form.write(plain)
        if self._short_ids:
            written = with_short_ids(written)
        text: str = self._tokenizer.apply_chat_template(
            written, tokenize=False, add_generation_prompt=answer_follows, **self._options
        )
        return SURROGATES.sub("\ufffd", text)


def template_options(conversation: Conversation) -> dict[str, Any]:
    """The variables of a template that a conversation sets.

    There is no one name for the wish to think: Qwen's and GLM's templates ask for `enable_thinking`, DeepSeek's and
    Granite's for `thinking`. What the client sets by name counts before what it wishes.
    """
    thinking = conversation.thinking
    options: dict[str, Any] = {}
    if conversation.tools:
        options["tools"] = [_template_tool(tool) for tool in conversation.tools]
    if thinking.enabled is not None:
        options |= {"enable_thinking": thinking.enabled, "thinking": thinking.enabled}
    if thinking.effort is not None:
        options["reasoning_effort"] = thinking.effort
    return options | conversation.template_options


def _template_tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}
    return {"type": "function", "function": function}


def template_turn(message: Message) -> Turn:
    """In OpenAI's shape, but with arguments as an object: templates write it as JSON, in the way the model learnt."""
    turn: Turn = {"role": message.role, "content": message.content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _object(call.arguments)}}
            for call in message.tool_calls
        ]
    return turn


def _object(arguments: str) -> Any:
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
