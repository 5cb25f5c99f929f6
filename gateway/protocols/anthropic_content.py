"""Anthropic's messages and their content blocks, to messages in the gateway's own words.

Source: Anthropic API reference, "Messages". Agents send `role: "system"` inside the messages, too.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import Message, ToolCall
from gateway.protocols.openai_tools import json_text

BILLING_HEADER = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n?")
"""Claude Code begins its system prompt with this line, whose `cch=` is another in every request: with it no prompt
would share its beginning with the one before (https://github.com/anthropics/claude-code/issues/68900)."""

SERVER_BLOCKS = ("server_tool_use", "mcp_tool_use", "mcp_tool_result", "container_upload")
"""What Anthropic's own service did in an earlier answer; results are `..._tool_result`."""


class Block(Struct, frozen=True):
    """A content block; which fields count depends on its type."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | dict[str, Any] | None" = None
    is_error: bool | None = None
    tool_name: str | None = None

    @property
    def is_of_the_service(self) -> bool:
        """It means nothing to a model that runs elsewhere."""
        return self.type in SERVER_BLOCKS or self.type.endswith("_tool_result")


class MessageParam(Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]

    @property
    def blocks(self) -> list[Block]:
        return [Block("text", self.content)] if isinstance(self.content, str) else self.content


def system_messages(system: str | Sequence[Block] | None) -> list[Message]:
    """The system prompt as one message; none if there is nothing in it."""
    blocks = [Block("text", system)] if isinstance(system, str) else system or ()
    texts = [BILLING_HEADER.sub("", _text(block, f"system[{index}]")) for index, block in enumerate(blocks)]
    text = "\n".join(filter(None, texts))
    return [Message("system", text)] if text else []


def to_messages(message: MessageParam, path: str) -> list[Message]:
    """One turn may be several messages: what its tools returned, then what the user says.

    Raises `UnsupportedParameter` for images and the like, `InvalidRequest` for blocks without what they need.
    """
    if message.role == "assistant":
        return [_assistant(message.blocks, path)]
    results, texts = [], []
    for index, block in enumerate(message.blocks):
        where = f"{path}.content[{index}]"
        if block.type == "tool_result" and message.role == "user":
            call_id = _given(block.tool_use_id, f"{where}.tool_use_id")
            results.append(Message("tool", _returned(block, where), tool_call_id=call_id))
        elif not block.is_of_the_service:
            texts.append(_text(block, where))
    said = [Message(message.role, "\n".join(texts))] if texts or not results else []
    return results + said


def service_blocks(message: MessageParam, path: str) -> Iterator[str]:
    """Paths and types of the blocks that have no effect."""
    for index, block in enumerate(message.blocks):
        if block.is_of_the_service:
            yield f"{path}.content[{index}].{block.type}"


def _assistant(blocks: Sequence[Block], path: str) -> Message:
    """Texts are joined as they are: they were one text before calls stood between them."""
    texts, thoughts, calls = [], [], []
    for index, block in enumerate(blocks):
        where = f"{path}.content[{index}]"
        if block.type == "tool_use":
            call_id, name = _given(block.id, f"{where}.id"), _given(block.name, f"{where}.name")
            calls.append(ToolCall(call_id, name, json_text(block.input or {})))
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type != "redacted_thinking" and not block.is_of_the_service:
            texts.append(_text(block, where))
    return Message("assistant", "".join(texts), tuple(calls), reasoning="".join(thoughts))


def _returned(result: Block, path: str) -> str:
    """What a tool returned, marked if it is an error."""
    if isinstance(result.content, list):
        parts = [_result_text(part, f"{path}.content[{index}]") for index, part in enumerate(result.content)]
        text = "\n".join(parts)
    elif isinstance(result.content, dict):
        raise InvalidRequest("A tool_result's content must be a string or a list of blocks.", f"{path}.content")
    else:
        text = result.content or ""
    return f"Error: {text}" if result.is_error else text


def _result_text(block: Block, path: str) -> str:
    if block.type == "tool_reference":  # of a tool that was sent with defer_loading; all are offered from the beginning
        return f"The tool {_given(block.tool_name, f'{path}.tool_name')} is available."
    return _text(block, path)


def _text(block: Block, path: str) -> str:
    if block.type == "text":
        return _given(block.text, f"{path}.text")
    raise UnsupportedParameter(f"This model takes text only, but the block has type {block.type!r}.", path)


def _given(value: str | None, path: str) -> str:
    if value is None:
        raise InvalidRequest("The field is required here.", path)
    return value
