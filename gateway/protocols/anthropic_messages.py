"""Anthropic's messages, the way in: the request's JSON to a `TextRequest`.

Source: Anthropic API reference, "Messages" and "Count tokens in a Message". Prompts are cached without being asked, so
every `cache_control` is accepted and means nothing.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import (
    ANYONE,
    Conversation,
    Grammar,
    Message,
    Origin,
    TextRequest,
    Thinking,
    Tool,
    ToolChoice,
)
from gateway.protocols.anthropic_content import Block, MessageParam, service_blocks, system_messages, to_messages
from gateway.protocols.begun_answer import begun_answer
from gateway.protocols.content_parts import MOST_MESSAGES
from gateway.protocols.json_body import decode_body
from gateway.protocols.openai_tools import checked_choice, distinct, json_text
from gateway.protocols.sampling_fields import SamplingFields, sampling, stop_strings

CHOICE_MODES: dict[str, Literal["auto", "none", "required"]] = {
    "auto": "auto",
    "none": "none",
    "any": "required",
    "tool": "required",
}


class ToolParam(Struct, frozen=True):
    """A custom tool, or one of Anthropic's own, which has another type and no schema."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None

    @property
    def is_custom(self) -> bool:
        return self.type in (None, "custom")


class ToolChoiceField(Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingField(Struct, frozen=True):
    """Enabled, disabled, or another type, such as adaptive, which leaves it to the model."""

    type: str
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None
    display: str | None = None


class OutputFormat(Struct, frozen=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, frozen=True):
    effort: str | None = None
    format: OutputFormat | None = None


class Metadata(Struct, frozen=True):
    user_id: str | None = None


class PromptFields(Struct, frozen=True, kw_only=True):
    """What makes the prompt; all that counting its tokens needs."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[MessageParam], Meta(min_length=1, max_length=MOST_MESSAGES)]
    system: str | list[Block] | None = None
    tools: list[ToolParam] | None = None
    tool_choice: ToolChoiceField | None = None
    thinking: ThinkingField | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    mcp_servers: Any = None
    container: Any = None


class MessagesRequest(PromptFields, frozen=True, kw_only=True):
    """Fields that mean something here; others are ignored, as agents send many that only Anthropic's service knows."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    cache_control: Any = None

    @property
    def session_hint(self) -> str:
        """What may name the session if no header does."""
        return (self.metadata.user_id or "") if self.metadata else ""


def parse_messages_request(body: bytes) -> MessagesRequest:
    """Raises `InvalidRequest` naming the field that is wrong."""
    return decode_body(body, MessagesRequest)


def parse_count_request(body: bytes) -> PromptFields:
    """Raises `InvalidRequest` naming the field that is wrong."""
    return decode_body(body, PromptFields)


def to_text_request(messages: MessagesRequest, origin: Origin = ANYONE) -> TextRequest:
    """Raises `InvalidRequest` or `UnsupportedParameter`."""
    return TextRequest(
        model=messages.model,
        prompt=_conversation(messages),
        sampling=sampling(
            SamplingFields(temperature=messages.temperature, top_p=messages.top_p, top_k=messages.top_k),
        ),
        max_tokens=messages.max_tokens,
        stop=stop_strings(messages.stop_sequences, "stop_sequences"),
        grammar=_grammar(messages),
        origin=origin,
    )


def to_counted_request(fields: PromptFields, origin: Origin = ANYONE) -> TextRequest:
    """With the same prompt as the request to answer has. Raises `InvalidRequest` or `UnsupportedParameter`."""
    return TextRequest(fields.model, _conversation(fields), grammar=_grammar(fields), origin=origin)


def parts_without_effect(fields: PromptFields) -> list[str]:
    """Paths of what this server understands but cannot do, such as tools that Anthropic runs."""
    tools = list(enumerate(fields.tools or ()))
    paths = [f"tools[{index}].{tool.type}" for index, tool in tools if not tool.is_custom]
    paths += [f"tools[{index}].defer_loading" for index, tool in tools if tool.is_custom and tool.defer_loading]
    if fields.thinking and fields.thinking.display == "omitted":
        paths.append("thinking.display")
    for index, message in enumerate(fields.messages):
        paths += service_blocks(message, f"messages[{index}]")
    return paths


def _conversation(fields: PromptFields) -> Conversation:
    for name in ("mcp_servers", "container"):
        if getattr(fields, name):
            raise UnsupportedParameter(f"This server has no {name}; send the request without.", name)
    messages = system_messages(fields.system)
    for index, message in enumerate(fields.messages):
        messages += to_messages(message, f"messages[{index}]")
    begun = begun_answer(messages, f"messages[{len(fields.messages) - 1}]")
    tools = _tools(fields)
    choice = fields.tool_choice
    return Conversation(
        messages=tuple(messages if begun is None else messages[:-1]),
        tools=tools,
        tool_choice=_tool_choice(choice, tools) if choice else ToolChoice(),
        parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
        thinking=_thinking(fields, begun),
        begun=begun,
    )


def _tools(fields: PromptFields) -> tuple[Tool, ...]:
    """The custom ones. Raises `InvalidRequest` for one without a name or a schema, or for two of one name."""
    tools = []
    for index, tool in enumerate(fields.tools or ()):
        if not tool.is_custom:
            continue
        path = f"tools[{index}]"
        if not tool.name or tool.input_schema is None:
            raise InvalidRequest(
                "A tool needs a name and an input_schema.", f"{path}.{'input_schema' if tool.name else 'name'}"
            )
        description = tool.description or ""
        parameters = json_text(tool.input_schema)
        tools.append((path, Tool(tool.name, description, parameters, bool(tool.strict), f"{path}.input_schema")))
    return distinct(tools)


def _tool_choice(choice: ToolChoiceField, tools: tuple[Tool, ...]) -> ToolChoice:
    """Raises `InvalidRequest` for a choice among tools that are not there."""
    if choice.type == "tool" and not choice.name:
        raise InvalidRequest("tool_choice of type tool needs the tool's name.", "tool_choice.name")
    names = (choice.name,) if choice.type == "tool" and choice.name else ()
    return checked_choice(ToolChoice(CHOICE_MODES[choice.type], names), tools, "tool_choice")


def _thinking(fields: PromptFields, begun: Message | None) -> Thinking:
    """Without the field it is left to the model, as for every other client of this server."""
    if begun and fields.thinking and fields.thinking.type == "enabled":
        raise InvalidRequest(
            "An answer whose beginning is given cannot think before it: end messages with the user's, or disable "
            "thinking.",
            "thinking",
        )
    asked, effort = fields.thinking, fields.output_config.effort if fields.output_config else None
    if asked is None or asked.type not in ("enabled", "disabled"):
        return Thinking(effort=effort)
    enabled = asked.type == "enabled"
    return Thinking(enabled, effort, asked.budget_tokens if enabled else None)


def _grammar(fields: PromptFields) -> Grammar | None:
    """What the answer must match, under the one name or the older one."""
    asked = [("output_config.format", fields.output_config.format)] if fields.output_config else []
    asked.append(("output_format", fields.output_format))
    grammars = [Grammar("json_schema", json_text(form.schema), param) for param, form in asked if form]
    if len(grammars) > 1:
        raise InvalidRequest("output_config.format and output_format cannot be combined.", "output_format")
    return grammars[0] if grammars else None
