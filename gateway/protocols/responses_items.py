"""The items of OpenAI's responses that make up a conversation: from the client's list to messages.

One answer of a model comes back as several items: its reasoning, its text, each of its calls. They become one message
again, up to the item that is not the assistant's.

Source: OpenAI API reference, "Responses", `input`; `additional_tools` and `tool_search_output` as codex sends them.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import Message, Role, ToolCall
from gateway.protocols.content_parts import Content, ContentPart, text_of
from gateway.protocols.json_body import decode_body
from gateway.protocols.openai_tools import json_text
from gateway.protocols.responses_tools import ResponsesTool, joined_name

SEALED = "mlx-gateway-reasoning:"
"""How `encrypted_content` of this server begins."""

RECORDS_OF_OTHERS = (
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "tool_search_call",
    "mcp_list_tools",
)
"""What a service's own tools did earlier in the conversation. The answers that came of it say what matters."""

TOOL_LISTS = ("additional_tools", "tool_search_output")


class InputItem(Struct, frozen=True):
    """Of all types; what a type does not have is absent. A message may leave out its type.

    `tools` is read where it counts: the lists of services that run their tools themselves have other shapes.
    """

    type: str | None = None
    id: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Content = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None
    output: Any = None
    summary: list[ContentPart] | None = None
    encrypted_content: str | None = None
    tools: msgspec.Raw = msgspec.Raw(b"null")


def tools_of(items: Sequence[InputItem]) -> list[tuple[str, list[ResponsesTool]]]:
    """The tools that stand among the items, each list with its path. Raises `InvalidRequest` for what is no tool."""
    return [
        (path := f"input[{index}].tools", decode_body(bytes(item.tools), list[ResponsesTool], path))
        for index, item in enumerate(items)
        if item.type in TOOL_LISTS and bytes(item.tools) != b"null"
    ]


def messages_of(items: Sequence[InputItem]) -> list[Message]:
    """Raises `InvalidRequest` for an item that lacks something, `UnsupportedParameter` for what cannot be honoured."""
    messages: list[Message] = []
    turn = _AssistantTurn()
    for index, item in enumerate(items):
        path = f"input[{index}]"
        kind = item.type or ("message" if item.role else "item_reference" if item.id else "")
        match kind:
            case "message" if item.role == "assistant":
                if turn.ends_with_text:
                    messages += turn.take()
                turn.say(text_of(item.content, f"{path}.content"))
            case "reasoning":
                turn.think(_reasoning(item, path))
            case "function_call" | "custom_tool_call":
                turn.call(_call(item, kind, path))
            case "message":
                messages += turn.take()
                messages.append(_message(item, path))
            case "function_call_output" | "custom_tool_call_output":
                messages += turn.take()
                messages.append(
                    Message("tool", _output(item.output, f"{path}.output"), tool_call_id=item.call_id or "")
                )
            case _ if kind in RECORDS_OF_OTHERS + TOOL_LISTS:
                pass
            case "item_reference":
                raise UnsupportedParameter(
                    "This server stores nothing to refer to; send the item itself instead of its id.", param=path
                )
            case _:
                raise UnsupportedParameter(
                    f"This server does not know items of type {kind!r}; send the conversation without.",
                    param=f"{path}.type",
                )
    return messages + turn.take()


def sealed_reasoning(text: str) -> str:
    """What a client that must not read reasoning sends back of it. It keeps no secret from who decodes it."""
    return SEALED + urlsafe_b64encode(text.encode(errors="replace")).decode()


def unsealed_reasoning(sealed: str) -> str:
    """Empty for another server's."""
    if not sealed.startswith(SEALED):
        return ""
    try:
        return urlsafe_b64decode(sealed.removeprefix(SEALED)).decode()
    except (binascii.Error, ValueError):
        return ""


class _AssistantTurn:
    """Items of one answer, until `take`."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.ends_with_text = False
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []

    def say(self, text: str) -> None:
        self._texts.append(text)
        self.ends_with_text = True

    def think(self, text: str) -> None:
        self._reasoning += [text] if text else []

    def call(self, call: ToolCall) -> None:
        self._calls.append(call)
        self.ends_with_text = False

    def take(self) -> list[Message]:
        """The message, if there was anything."""
        if not (self._texts or self._reasoning or self._calls):
            return []
        message = Message("assistant", "".join(self._texts), tuple(self._calls), reasoning="\n".join(self._reasoning))
        self._start()
        return [message]


def _message(item: InputItem, path: str) -> Message:
    if item.role is None:
        raise InvalidRequest("A message needs a role.", param=f"{path}.role")
    role: Role = "system" if item.role == "developer" else item.role
    return Message(role, text_of(item.content, f"{path}.content"))


def _reasoning(item: InputItem, path: str) -> str:
    """The text in full, if the client has it in any form, else its summary."""
    if item.encrypted_content and (text := unsealed_reasoning(item.encrypted_content)):
        return text
    parts = item.content if isinstance(item.content, list) and item.content else item.summary or ()
    return "\n".join(part.text or "" for part in parts)


def _call(item: InputItem, kind: str, path: str) -> ToolCall:
    if item.name is None:
        raise InvalidRequest("A call needs the name of its tool.", param=f"{path}.name")
    if kind == "custom_tool_call":
        arguments = json_text({"input": item.input or ""})
    else:
        arguments = item.arguments if isinstance(item.arguments, str) else json_text(item.arguments or {})
    return ToolCall(item.call_id or "", joined_name(item.name, item.namespace), arguments)


def _output(output: object, path: str) -> str:
    """A call's result: a string or parts; with some clients an object of their own, which the model gets as JSON."""
    try:
        return text_of(msgspec.convert(output, Content), path)
    except msgspec.ValidationError:
        return json_text(output)
