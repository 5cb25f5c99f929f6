"""Tools as OpenAI's responses write them, and the forms in which a model gets them.

A model calls functions with names and JSON arguments. Here a function may stand in a namespace, `{"type": "namespace",
"name": "mcp__files", "tools": [...]}`: the model knows it as `mcp__files__read`, and its calls go back with `name` and
`namespace` apart, as codex tells them apart. A custom tool takes a text of any form: the model knows it as a function
with one parameter, `input`.

Source: OpenAI API reference, "Responses", `tools` and `tool_choice`; the names within namespaces as codex joins them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import Tool, ToolChoice
from gateway.protocols.openai_tools import FunctionDefinition, checked_choice, distinct, json_text, to_tool

FREEFORM_PARAMETERS = json_text(
    {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
        "additionalProperties": False,
    }
)


class FreeformFormat(Struct, frozen=True, omit_defaults=True):
    """`definition` is a grammar in the `syntax` lark or regex. The model reads it; nothing holds the input to it."""

    type: str
    syntax: str | None = None
    definition: str | None = None


class ResponsesTool(Struct, frozen=True, omit_defaults=True):
    """A function, a custom tool, or a namespace of these. Of any other type only the type counts.

    The default is made anew so that it is written when tools are sent back.
    """

    type: str = field(default_factory=lambda: "function")
    name: Annotated[str, Meta(min_length=1)] | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: FreeformFormat | None = None
    tools: list["ResponsesTool"] | None = None


class ResponsesToolChoice(Struct, frozen=True, omit_defaults=True):
    """One tool, or with type `allowed_tools` some of them."""

    type: str
    name: str | None = None
    namespace: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list["ResponsesToolChoice"] | None = None


ToolChoiceField = Literal["auto", "none", "required"] | ResponsesToolChoice | None


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool in the model's form, and what its calls look like to the client."""

    tool: Tool
    name: str
    namespace: str | None = None
    freeform: bool = False


def joined_name(name: str, namespace: str | None) -> str:
    """The name under which the model knows a tool."""
    if not namespace:
        return name
    return f"{namespace}{name}" if namespace.endswith("__") else f"{namespace}__{name}"


def offered_tools(tools: Sequence[ResponsesTool], path: str = "tools") -> list[tuple[str, OfferedTool]]:
    """What of `tools` the model may call, each with its path in the request.

    Raises `InvalidRequest` for one without its name or its members.
    """
    offered: list[tuple[str, OfferedTool]] = []
    for index, tool in enumerate(tools):
        here = f"{path}[{index}]"
        if tool.type == "namespace":
            if tool.name is None or tool.tools is None:
                raise InvalidRequest("A namespace needs a name and tools.", param=here)
            for number, member in enumerate(tool.tools):
                offered += _offered(member, tool, f"{here}.tools[{number}]")
        else:
            offered += _offered(tool, None, here)
    return offered


def ignored_tool_types(tools: Sequence[ResponsesTool]) -> list[str]:
    """The types of tools that a service runs itself, such as `web_search`; there are none here."""
    everything = [member for tool in tools for member in (tool.tools or () if tool.type == "namespace" else (tool,))]
    return sorted({tool.type for tool in everything if tool.type not in ("function", "custom")})


def all_different(tools: Sequence[tuple[str, OfferedTool]]) -> tuple[OfferedTool, ...]:
    """The tools, without their paths. Raises `InvalidRequest` if the model could not tell two apart."""
    distinct([(path, offered.tool) for path, offered in tools])
    return tuple(offered for _, offered in tools)


def tool_choice(choice: ToolChoiceField, offered: Sequence[OfferedTool]) -> ToolChoice:
    """Raises `InvalidRequest` for a choice among tools that are not there."""
    match choice:
        case None:
            wanted = ToolChoice()
        case "auto" | "none" | "required":
            wanted = ToolChoice(choice)
        case ResponsesToolChoice(type="function" | "custom", name=str()):
            wanted = ToolChoice("required", _known_as(choice, offered))
        case ResponsesToolChoice(type="allowed_tools", tools=list() as allowed):
            names = [name for tool in allowed if tool.name for name in _known_as(tool, offered)]
            # Without a name left, all that is allowed would have to be run by the service.
            wanted = ToolChoice(choice.mode or "auto", tuple(names)) if names else ToolChoice("none")
            if not names and choice.mode == "required":
                raise InvalidRequest("tool_choice allows no tool that this server knows.", param="tool_choice.tools")
        case ResponsesToolChoice(type=kind):
            raise UnsupportedParameter(
                "tool_choice must be auto, none, required, a function, a custom tool or allowed_tools with tools, "
                f"but has type {kind!r}.",
                param="tool_choice",
            )
    return checked_choice(wanted, [one.tool for one in offered], "tool_choice")


def _offered(tool: ResponsesTool, namespace: ResponsesTool | None, path: str) -> Iterator[tuple[str, OfferedTool]]:
    if tool.type not in ("function", "custom"):
        return
    if tool.name is None:
        raise InvalidRequest(f"A tool of type {tool.type} needs a name.", param=f"{path}.name")
    within = namespace.name if namespace else None
    name = joined_name(tool.name, within)
    if tool.type == "custom":
        known = Tool(name, _freeform_description(tool), FREEFORM_PARAMETERS)
    else:
        function = FunctionDefinition(name, tool.description, tool.parameters, tool.strict)
        known = to_tool(function, f"{path}.parameters")
    yield path, OfferedTool(known, tool.name, within, tool.type == "custom")


def _freeform_description(tool: ResponsesTool) -> str:
    lines = [tool.description] if tool.description else []
    if tool.format and tool.format.definition:
        lines.append(f"The input must match this {tool.format.syntax or 'lark'} grammar:\n{tool.format.definition}")
    return "\n\n".join(lines)


def _known_as(choice: ResponsesToolChoice, offered: Sequence[OfferedTool]) -> tuple[str, ...]:
    """The model's names of what a client names: a tool, with its namespace or without, or all of a namespace."""
    if choice.type == "namespace":
        return tuple(one.tool.name for one in offered if one.namespace == choice.name)
    exact = joined_name(choice.name or "", choice.namespace)
    if choice.namespace or any(one.tool.name == exact for one in offered):
        return (exact,)
    return tuple(one.tool.name for one in offered if one.name == choice.name) or (exact,)
