"""A model's own chat template, and messages in the shape that templates expect."""

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from gateway.generation.request import Message

TEMPLATE_FAILURES = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError)
"""A template is a program: besides refusing (and being stopped by the sandbox) it may stumble over its input."""

Turn = dict[str, Any]


class ChatTemplate:
    """Renders turns in jinja's sandbox. `tokenizer` is an mlx-lm `TokenizerWrapper`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def render(self, turns: Sequence[Turn], *, answer_follows: bool = True) -> str:
        """The conversation's text, up to where the answer begins, or with its last turn as the end.

        Raises one of `TEMPLATE_FAILURES` when it does not take this conversation.
        """
        text: str = self._tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=answer_follows
        )
        return text


def template_turn(message: Message) -> Turn:
    """In OpenAI's shape, but with arguments as an object: templates write it as JSON, in the way the model learnt."""
    turn: Turn = {"role": message.role, "content": message.content}
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
