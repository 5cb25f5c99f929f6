"""OpenAI's chat completions, the way in: the request's JSON to a `TextRequest`.

Source: OpenAI API reference, "Chat Completions"; `reasoning`, `chat_template_kwargs`, `thinking_token_budget` and
`continue_final_message` as in vLLM's server, `enable_thinking` as in Qwen's.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import (
    ANYONE,
    Conversation,
    Message,
    Origin,
    Role,
    TextRequest,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)
from gateway.protocols.begun_answer import begun_answer
from gateway.protocols.content_parts import MOST_MESSAGES, Content, text_of
from gateway.protocols.grammar_fields import GrammarFields, grammar
from gateway.protocols.json_body import decode_body
from gateway.protocols.openai_tools import (
    AllowedTools,
    ChatTool,
    ChatToolChoice,
    FunctionDefinition,
    NamedFunction,
    chat_tools,
    checked_choice,
    distinct,
    json_text,
    to_tool,
)
from gateway.protocols.sampling_fields import sampling, stop_strings


class CalledFunction(Struct, frozen=True):
    name: str
    arguments: str | dict[str, Any] | None = None


class ChatToolCall(Struct, frozen=True):
    """Some clients leave out the type, some the id of an only call."""

    function: CalledFunction
    id: str = ""


class ChatMessage(Struct, frozen=True):
    """Reasoning comes back under the one name or the other, if at all."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None
    reasoning_content: str | None = None
    reasoning: Any = None


class StreamOptions(Struct, frozen=True):
    include_usage: bool = False


class ThinkingField(Struct, frozen=True):
    """As GLM, DeepSeek and Anthropic write it."""

    type: str | None = None
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None


class ReasoningField(Struct, frozen=True):
    """OpenRouter's and Responses' form of the same wishes."""

    effort: str | None = None
    enabled: bool | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None


class ChatRequest(GrammarFields, frozen=True, kw_only=True):
    """Fields that mean something here; others are ignored, as agents send many that only OpenAI's own service knows."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MOST_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    prompt_cache_key: str | None = None
    tools: list[ChatTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | ChatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionDefinition] | None = None
    function_call: Literal["auto", "none"] | NamedFunction | None = None
    reasoning_effort: str | None = None
    reasoning: ReasoningField | None = None
    thinking: ThinkingField | None = None
    enable_thinking: bool | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    modalities: list[str] | None = None
    audio: Any = None


def parse_chat_request(body: bytes) -> ChatRequest:
    """Raises `InvalidRequest` naming the field that is wrong."""
    return decode_body(body, ChatRequest)


def to_text_request(chat: ChatRequest, origin: Origin = ANYONE) -> TextRequest:
    """Raises `InvalidRequest` or `UnsupportedParameter`."""
    if chat.audio is not None or any(modality != "text" for modality in chat.modalities or ()):
        name = "modalities" if chat.modalities else "audio"
        raise UnsupportedParameter(f"This server answers with text only; remove {name}.", param=name)
    if chat.top_logprobs is not None and not chat.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    messages = tuple(_message(message, f"messages[{index}]") for index, message in enumerate(chat.messages))
    begun = _begun(chat, messages)
    limits = [limit for limit in (chat.max_tokens, chat.max_completion_tokens) if limit is not None]
    return TextRequest(
        model=chat.model,
        prompt=Conversation(
            messages=messages if begun is None else messages[:-1],
            tools=(tools := _tools(chat)),
            tool_choice=_tool_choice(chat, tools),
            parallel_tool_calls=chat.parallel_tool_calls is not False,
            thinking=_thinking(chat),
            begun=begun,
            template_options=chat.chat_template_kwargs or {},
        ),
        sampling=sampling(chat),
        max_tokens=min(limits) if limits else None,
        max_tokens_param="max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens",
        stop=stop_strings(chat.stop),
        choices=chat.n or 1,
        top_logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        grammar=grammar(chat),
        origin=origin if chat.prompt_cache_key is None else origin.within(chat.prompt_cache_key),
    )


def _begun(chat: ChatRequest, messages: Sequence[Message]) -> Message | None:
    """Raises `InvalidRequest` for an answer to be continued that is not there."""
    if not chat.continue_final_message:
        return None
    if (begun := begun_answer(messages, f"messages[{len(messages) - 1}]")) is None:
        raise InvalidRequest(
            "continue_final_message needs a last message of the assistant's.", param="continue_final_message"
        )
    return begun


def _message(message: ChatMessage, path: str) -> Message:
    content = text_of(message.content, f"{path}.content")
    match message.role:
        case "tool" | "function":
            return Message("tool", content, tool_call_id=message.tool_call_id or "")
        case "assistant":
            said = message.reasoning_content or (message.reasoning if isinstance(message.reasoning, str) else "")
            return Message("assistant", content, _calls(message), reasoning=said)
    role: Role = "system" if message.role == "developer" else message.role
    return Message(role, content)


def _calls(message: ChatMessage) -> tuple[ToolCall, ...]:
    calls = [(call.id, call.function) for call in message.tool_calls or ()]
    if message.function_call:
        calls.append(("", message.function_call))
    return tuple(ToolCall(call_id, function.name, _arguments(function.arguments)) for call_id, function in calls)


def _arguments(arguments: str | dict[str, Any] | None) -> str:
    return arguments if isinstance(arguments, str) else json_text(arguments or {})


def _tools(chat: ChatRequest) -> tuple[Tool, ...]:
    """Raises `InvalidRequest` for one that is no function, or for two of one name."""
    given = [(f"functions[{index}]", function) for index, function in enumerate(chat.functions or ())]
    named = [(path, to_tool(function, f"{path}.parameters")) for path, function in given]
    return distinct(chat_tools(chat.tools or ()) + named)


def _tool_choice(chat: ChatRequest, tools: Sequence[Tool]) -> ToolChoice:
    """Raises `InvalidRequest` for a choice among tools that are not there."""
    choice = chat.tool_choice if chat.tool_choice is not None else chat.function_call
    param = "tool_choice" if chat.tool_choice is not None else "function_call"
    match choice:
        case None:
            return ToolChoice()
        case "auto" | "none" | "required":
            wanted = ToolChoice(choice)
        case NamedFunction(name):
            wanted = ToolChoice("required", (name,))
        case ChatToolChoice(function=NamedFunction(name)):
            wanted = ToolChoice("required", (name,))
        case ChatToolChoice(allowed_tools=AllowedTools(mode, allowed)):
            wanted = ToolChoice(mode, tuple(tool.function.name for tool in allowed if tool.function))
        case _:
            raise InvalidRequest("tool_choice must be auto, none, required, a function or allowed_tools.", param=param)
    return checked_choice(wanted, tools, param)


def _thinking(chat: ChatRequest) -> Thinking:
    """The wish under whichever of its names it comes; the more particular one counts."""
    asked, reasoning = chat.thinking, chat.reasoning or ReasoningField()
    enabled = chat.enable_thinking
    if enabled is None and asked and asked.type in ("enabled", "disabled"):
        enabled = asked.type == "enabled"
    if enabled is None:
        enabled = reasoning.enabled
    effort = chat.reasoning_effort or reasoning.effort
    if enabled is None and effort == "none":
        enabled, effort = False, None
    budgets = (chat.thinking_token_budget, asked.budget_tokens if asked else None, reasoning.max_tokens)
    return Thinking(enabled, effort, next((budget for budget in budgets if budget is not None), None))
