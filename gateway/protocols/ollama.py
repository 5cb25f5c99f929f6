"""Ollama's API, the way in: the JSON of /api/chat and /api/generate to a `TextRequest`.

Source: Ollama's API documentation (docs/api.md). It streams unless `stream` is false, and calls of tools have their
arguments as objects.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import (
    ANYONE,
    Conversation,
    FillIn,
    Grammar,
    Message,
    Origin,
    PlainText,
    Role,
    Sampling,
    TextRequest,
    Thinking,
    ToolCall,
)
from gateway.protocols.content_parts import MOST_MESSAGES
from gateway.protocols.json_body import ignored_fields
from gateway.protocols.openai_tools import ChatTool, chat_tools, distinct, json_text
from gateway.protocols.sampling_fields import SamplingFields, sampling, stop_strings

NO_TIME = re.compile(r"0+(\.0+)?(ns|us|µs|ms|s|m|h)?")
LATEST = ":latest"
"""What Ollama's clients may put behind the name of a model."""


class OllamaOptions(SamplingFields, frozen=True, kw_only=True):
    """`num_predict` of less than 1 means as much as the context leaves, `seed` -1 means a random one."""

    num_predict: int | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    stop: str | list[str] | None = None


class OllamaFields(Struct, frozen=True, kw_only=True):
    """What both have. The context's size (`options.num_ctx`) is the server's to choose, and so is `keep_alive` but in a
    request for no answer."""

    model: Annotated[str, Meta(min_length=1)]
    format: str | dict[str, Any] | None = None
    options: OllamaOptions | None = None
    stream: bool | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None

    @property
    def model_id(self) -> str:
        return self.model.removesuffix(LATEST)

    @property
    def asks_nothing(self) -> bool:
        """But that the model be there, or no more."""
        raise NotImplementedError

    @property
    def unloads(self) -> bool:
        """The model's memory shall be given up."""
        kept = self.keep_alive
        none = NO_TIME.fullmatch(kept) is not None if isinstance(kept, str) else kept == 0
        return self.asks_nothing and none


class OllamaFunction(Struct, frozen=True):
    name: str
    arguments: dict[str, Any] | str | None = None


class OllamaToolCall(Struct, frozen=True):
    function: OllamaFunction
    id: str = ""


class OllamaMessage(Struct, frozen=True):
    role: Role
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChat(OllamaFields, frozen=True, kw_only=True):
    messages: Annotated[list[OllamaMessage], Meta(max_length=MOST_MESSAGES)] | None = None
    tools: list[ChatTool] | None = None

    @property
    def asks_nothing(self) -> bool:
        return not self.messages


class OllamaGenerate(OllamaFields, frozen=True, kw_only=True):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: list[Any] | None = None

    @property
    def asks_nothing(self) -> bool:
        return not self.prompt and not self.suffix


class ShowRequest(Struct, frozen=True):
    """Older clients write the model's name under `name`."""

    model: str | None = None
    name: str | None = None

    @property
    def model_id(self) -> str:
        """Raises `InvalidRequest` if there is none."""
        if not (name := self.model or self.name):
            raise InvalidRequest("Name the model to show.", param="model")
        return name.removesuffix(LATEST)


class _OptionsAsSent(Struct, frozen=True):
    options: msgspec.Raw = msgspec.Raw(b"{}")


def ollama_ignored_fields(body: bytes, asked: OllamaFields) -> list[str]:
    """The names in a body that was decoded as `asked` which have no effect, those of options among them."""
    options = bytes(msgspec.json.decode(body, type=_OptionsAsSent).options)
    ignored = [] if options == b"null" else ignored_fields(options, OllamaOptions)
    unread = _unread_beside(asked) if isinstance(asked, OllamaGenerate) else []
    unread += ["keep_alive"] if asked.keep_alive is not None and not asked.unloads else []
    return sorted(ignored_fields(body, type(asked)) + unread) + [f"options.{name}" for name in ignored]


def _unread_beside(asked: OllamaGenerate) -> list[str]:
    """A raw prompt and one with a gap are no conversations, and a raw one has no gap."""
    given = {"suffix": asked.suffix and asked.raw, "system": asked.system, "think": asked.think is not None}
    return [name for name, there in given.items() if there] if asked.raw or asked.suffix else []


def chat_to_text_request(chat: OllamaChat, origin: Origin = ANYONE) -> TextRequest:
    """Raises `InvalidRequest` or `UnsupportedParameter`."""
    messages = tuple(_messages(chat.messages or ()))
    tools = distinct(chat_tools(chat.tools or ()))
    begun = _begun(chat, messages)
    before = messages if begun is None else messages[:-1]
    return _text_request(chat, Conversation(before, tools, thinking=_thinking(chat), begun=begun), origin)


def _begun(chat: OllamaChat, messages: Sequence[Message]) -> Message | None:
    """The last message if it is the assistant's, with which Ollama's answers go on; one in a form begins anew."""
    last = messages[-1] if len(messages) > 1 else None
    return last if last and last.role == "assistant" and not last.tool_calls and not chat.format else None


def generate_to_text_request(generate: OllamaGenerate, origin: Origin = ANYONE) -> TextRequest:
    """Raises `InvalidRequest` or `UnsupportedParameter`."""
    _refuse_images(generate.images, "images")
    if generate.template:
        raise UnsupportedParameter(
            "This server uses the model's own template; remove template or send raw.", "template"
        )
    prompt = generate.prompt or ""
    if generate.raw:
        return _text_request(generate, PlainText(prompt), origin)
    if generate.suffix:
        return _text_request(generate, FillIn(prompt, generate.suffix), origin)
    system = (Message("system", generate.system),) if generate.system else ()
    conversation = Conversation((*system, Message("user", prompt)), thinking=_thinking(generate))
    return _text_request(generate, conversation, origin)


def _text_request(fields: OllamaFields, prompt: Conversation | PlainText | FillIn, origin: Origin) -> TextRequest:
    options = fields.options or OllamaOptions()
    limit = options.num_predict
    return TextRequest(
        model=fields.model_id,
        prompt=prompt,
        sampling=_sampling(options),
        max_tokens=limit if limit and limit > 0 else None,
        max_tokens_param="options.num_predict",
        stop=stop_strings(options.stop, "options.stop"),
        grammar=_grammar(fields.format),
        origin=origin,
    )


def _sampling(options: OllamaOptions) -> Sampling:
    chosen = sampling(options)
    if options.repeat_penalty is not None:
        chosen = replace(
            chosen,
            repetition_penalty=options.repeat_penalty,
            stated=chosen.stated | {"repetition_penalty"},
        )
    return replace(chosen, seed=None) if options.seed == -1 else chosen


def _grammar(form: str | dict[str, Any] | None) -> Grammar | None:
    if isinstance(form, dict):
        return Grammar("json_schema", json_text(form), "format")
    if form not in (None, "", "json"):
        raise InvalidRequest(f"format is {form[:40]!r}, but must be json or a JSON schema.", param="format")
    return Grammar("json_object", param="format") if form else None


def _thinking(fields: OllamaFields) -> Thinking:
    """A word is how much."""
    if isinstance(fields.think, str):
        return Thinking(True, fields.think)
    return Thinking(fields.think)


def _messages(given: Sequence[OllamaMessage]) -> Iterator[Message]:
    """A result that names its tool only is that of the latest call of it."""
    latest: dict[str, str] = {}
    for index, message in enumerate(given):
        understood = _message(message, f"messages[{index}]", latest)
        latest |= {call.name: call.id for call in understood.tool_calls}
        yield understood


def _message(message: OllamaMessage, path: str, latest: Mapping[str, str]) -> Message:
    _refuse_images(message.images, f"{path}.images")
    calls = tuple(
        ToolCall(call.id, call.function.name, _arguments(call.function.arguments)) for call in message.tool_calls or ()
    )
    content = message.content or ""
    if message.role == "assistant":
        return Message("assistant", content, calls, reasoning=message.thinking or "")
    call_id = message.tool_call_id or latest.get(message.tool_name or "", "")
    return Message(message.role, content, tool_call_id=call_id)


def _arguments(arguments: dict[str, Any] | str | None) -> str:
    return arguments if isinstance(arguments, str) else json_text(arguments or {})


def _refuse_images(images: list[Any] | None, path: str) -> None:
    if images:
        raise UnsupportedParameter("This model takes text only; remove the images.", param=path)
