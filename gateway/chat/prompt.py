"""From messages to token ids, with the model's own chat template."""

import asyncio
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from gateway.errors import InvalidRequest
from gateway.generation.request import Message

TEMPLATE_FAILURES = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError)
"""A template is a program: besides refusing (and being stopped by the sandbox) it may stumble over its input."""


class PromptBuilder:
    """Renders and tokenises for one model; stateless, so any thread may use it.

    `tokenizer` is an mlx-lm `TokenizerWrapper`. Its template runs in jinja's sandbox. Ids come from the
    underlying `tokenizers` object, which unlike the wrapper keeps no settings between calls.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._encoder = tokenizer.backend_tokenizer

    async def build(self, messages: Sequence[Message]) -> list[int]:
        """The ids of the whole conversation, up to where the answer begins.

        Done on another thread: a long prompt takes tens of milliseconds, and a template is a program of the
        model's maker.

        Raises `InvalidRequest` with the template's own words when it refuses the conversation.
        """
        return await asyncio.to_thread(self._build, messages)

    async def message_ends(self, messages: Sequence[Message], ids: Sequence[int]) -> tuple[int, ...]:
        """Where in a prompt, whose `ids` were built, the last message begins and where it ends.

        A later prompt may go on otherwise from there: with another last message, or with an answer that the template
        writes otherwise than it was generated. A place that cannot be told for certain is left out.
        """
        return await asyncio.to_thread(self._message_ends, messages, ids)

    def _build(self, messages: Sequence[Message]) -> list[int]:
        try:
            text = self._render(messages, add_generation_prompt=True)
        except TEMPLATE_FAILURES as error:
            raise InvalidRequest(
                f"The model's chat template does not accept these messages: {error}", param="messages"
            ) from error
        return self._encode(text)

    def _message_ends(self, messages: Sequence[Message], ids: Sequence[int]) -> tuple[int, ...]:
        ends = set[int]()
        try:
            text = self._render(messages, add_generation_prompt=True)
        except TEMPLATE_FAILURES:
            return ()
        for shorter in (messages[:-1], messages):
            try:
                beginning = self._render(shorter, add_generation_prompt=False) if shorter else ""
            except TEMPLATE_FAILURES:
                continue  # it does not take a conversation that ends there
            rest = self._encode(text[_common_characters(text, beginning) :])
            if rest and len(rest) < len(ids) and list(ids[-len(rest) :]) == rest:
                ends.add(len(ids) - len(rest))
        return tuple(sorted(ends))

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text: str = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text

    def _encode(self, text: str) -> list[int]:
        # A batch of one: `encode` holds the GIL throughout, which would stop every stream for seconds per megabyte.
        ids: list[int] = self._encoder.encode_batch([text], add_special_tokens=False)[0].ids
        return ids


def _common_characters(text: str, other: str) -> int:
    if text.startswith(other):
        return len(other)
    return next((place for place, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), 0)
