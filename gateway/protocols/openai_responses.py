"""OpenAI's responses, the way in: the request's JSON to a `TextRequest`.

Nothing is stored between requests: a client sends the whole conversation every time.

Source: OpenAI API reference, "Responses", create.
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
)
from gateway.protocols.content_parts import MOST_MESSAGES
from gateway.protocols.json_body import decode_body, ignored_fields
from gateway.protocols.openai_tools import json_text
from gateway.protocols.responses_items import InputItem, messages_of, tools_of
from gateway.protocols.responses_tools import (
    OfferedTool,
    ResponsesTool,
    ToolChoiceField,
    all_different,
    ignored_tool_types,
    offered_tools,
    tool_choice,
)
from gateway.protocols.sampling_fields import SamplingFields, sampling

LOGPROBS = "message.output_text.logprobs"
SEALED_REASONING = "reasoning.encrypted_content"

IMPOSSIBLE = {
    "previous_response_id": "This server stores no responses; send the whole conversation as input.",
    "conversation": "This server stores no conversations; send the whole conversation as input.",
    "prompt": "This server stores no prompts; send the text as instructions and input.",
}


class TextFormat(Struct, frozen=True, omit_defaults=True):
    """`strict` is accepted either way: the answer always matches the schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None


class TextField(Struct, frozen=True):
    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningField(Struct, frozen=True, omit_defaults=True):
    """With a `summary` of any kind the reasoning is given as its own summary as well."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class StreamOptions(Struct, frozen=True):
    include_obfuscation: bool | None = None


class ResponsesRequest(SamplingFields, frozen=True, kw_only=True):
    """Fields that mean something here; others are ignored, as agents send many that only OpenAI's own service knows."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | Annotated[list[InputItem], Meta(max_length=MOST_MESSAGES)] = ""
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: ToolChoiceField = None
    parallel_tool_calls: bool | None = None
    text: TextField | None = None
    reasoning: ReasoningField | None = None
    truncation: Literal["auto", "disabled"] | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None

    @property
    def items(self) -> list[InputItem]:
        if isinstance(self.input, list):
            return self.input
        return [InputItem(role="user", content=self.input)] if self.input else []

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    @property
    def wants_summary(self) -> bool:
        return bool(self.reasoning and (self.reasoning.summary or self.reasoning.generate_summary))

    @property
    def wants_sealed_reasoning(self) -> bool:
        return SEALED_REASONING in (self.include or ())


def parse_responses_request(body: bytes) -> ResponsesRequest:
    """Raises `InvalidRequest` naming the field that is wrong."""
    return decode_body(body, ResponsesRequest)


def offered(request: ResponsesRequest) -> tuple[OfferedTool, ...]:
    """What the model may call: the request's tools, and those that its input adds to them."""
    tools = offered_tools(request.tools or ())
    for path, added in tools_of(request.items):
        known = {one.tool.name for _, one in tools}
        tools += [entry for entry in offered_tools(added, path) if entry[1].tool.name not in known]
    return all_different(tools)


def to_text_request(request: ResponsesRequest, tools: tuple[OfferedTool, ...], origin: Origin = ANYONE) -> TextRequest:
    """`tools` are the `offered` ones. Raises `InvalidRequest` or `UnsupportedParameter`."""
    for name, reason in IMPOSSIBLE.items():
        if getattr(request, name) is not None:
            raise UnsupportedParameter(reason, param=name)
    if request.background:
        raise UnsupportedParameter(
            "This server stores no responses to fetch later; stream instead.", param="background"
        )
    messages = messages_of(request.items)
    if request.instructions:
        messages.insert(0, Message("system", request.instructions))
    if not messages:
        raise InvalidRequest("There is nothing to answer: input is empty.", param="input")
    return TextRequest(
        model=request.model,
        prompt=Conversation(
            messages=tuple(messages),
            tools=tuple(one.tool for one in tools),
            tool_choice=tool_choice(request.tool_choice, tools),
            parallel_tool_calls=request.parallel_tool_calls is not False,
            thinking=_thinking(request.reasoning),
            param="input",
        ),
        sampling=sampling(request),
        max_tokens=request.max_output_tokens,
        max_tokens_param="max_output_tokens",
        top_logprobs=(request.top_logprobs or 0) if request.wants_logprobs else None,
        grammar=_grammar(request.text),
        origin=origin if request.prompt_cache_key is None else origin.within(request.prompt_cache_key),
    )


def ignored(body: bytes, request: ResponsesRequest) -> list[str]:
    """The names of what has no effect on the answer to the request in this body."""
    names = ignored_fields(body, ResponsesRequest)
    if request.store:
        names.append("store")
    if request.truncation == "auto":
        names.append("truncation")
    if request.text and request.text.verbosity:
        names.append("text.verbosity")
    if request.stream_options and request.stream_options.include_obfuscation:
        names.append("stream_options.include_obfuscation")
    known = (LOGPROBS, SEALED_REASONING)
    names += [f"include[{index}].{name}" for index, name in enumerate(request.include or ()) if name not in known]
    return sorted(names)


def ignored_tools(request: ResponsesRequest) -> list[str]:
    """The types of the tools that only another service could run."""
    return ignored_tool_types(request.tools or ())


def _grammar(text: TextField | None) -> Grammar | None:
    if text is None or text.format is None or text.format.type == "text":
        return None
    if text.format.type == "json_object":
        return Grammar("json_object", param="text.format")
    if text.format.schema is None:
        raise InvalidRequest("json_schema needs a schema.", param="text.format.schema")
    return Grammar("json_schema", json_text(text.format.schema), "text.format.schema")


def _thinking(reasoning: ReasoningField | None) -> Thinking:
    if reasoning is None or reasoning.effort is None:
        return Thinking()
    return Thinking(False) if reasoning.effort == "none" else Thinking(effort=reasoning.effort)
