"""Tools and the choice among them, as OpenAI's chat completions write them; other protocols share the checks.

Source: OpenAI API reference, "Chat Completions", `tools` and `tool_choice`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import Tool, ToolChoice


class FunctionDefinition(Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(Struct, frozen=True):
    function: FunctionDefinition | None = None
    type: str = "function"


class NamedFunction(Struct, frozen=True):
    name: str


class AllowedTools(Struct, frozen=True):
    mode: Literal["auto", "required"]
    tools: list[ChatTool]


class ChatToolChoice(Struct, frozen=True):
    """One function, or with `allowed_tools` some of them."""

    type: str = "function"
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


def chat_tools(tools: Sequence[ChatTool]) -> list[tuple[str, Tool]]:
    """Each with its path in the request. Raises `UnsupportedParameter` for one that is no function."""
    understood = []
    for index, tool in enumerate(tools):
        if tool.type != "function" or tool.function is None:
            raise UnsupportedParameter(
                f"This server calls tools of type function only, but this one has type {tool.type!r}.",
                param=f"tools[{index}].type",
            )
        path = f"tools[{index}]"
        understood.append((path, to_tool(tool.function, f"{path}.function.parameters")))
    return understood


def to_tool(function: FunctionDefinition, param: str = "tools") -> Tool:
    """`param` is the request's field with the parameters, for errors to name."""
    parameters = {"type": "object", "properties": {}} if function.parameters is None else function.parameters
    return Tool(function.name, function.description or "", json_text(parameters), bool(function.strict), param)


def distinct(tools: Sequence[tuple[str, Tool]]) -> tuple[Tool, ...]:
    """The tools, without their paths. Raises `InvalidRequest` if two have the same name."""
    names: set[str] = set()
    for path, tool in tools:
        if tool.name in names:
            raise InvalidRequest(f"There is more than one tool {tool.name!r}; names must differ.", param=path)
        names.add(tool.name)
    return tuple(tool for _, tool in tools)


def checked_choice(choice: ToolChoice, tools: Sequence[Tool], param: str) -> ToolChoice:
    """The same. Raises `InvalidRequest` when it asks for tools that are not there."""
    known = [tool.name for tool in tools]
    for name in choice.names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise InvalidRequest(f"{param} names the tool {name!r}, but the request's tools are: {listed}.", param)
    if choice.mode == "required" and not tools:
        raise InvalidRequest(f"{param} asks for a tool call, but there are no tools.", param)
    return choice


def json_text(value: object) -> str:
    return msgspec.json.encode(value).decode()
