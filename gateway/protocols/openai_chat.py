"""OpenAI's chat completions, the way in: the request's JSON to a `TextRequest`.

Source: OpenAI API reference, "Chat Completions"; top_k, min_p and repetition_penalty as in vLLM's server.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import ANYONE, Grammar, Message, Origin, Role, Sampling, TextRequest
from gateway.protocols.json_body import decode_body

MAX_STOP_STRINGS = 16
TEXT_PART_TYPES = ("text", "input_text")


class ContentPart(Struct, frozen=True):
    type: str
    text: str | None = None


class ChatMessage(Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(Struct, frozen=True):
    include_usage: bool = False


class JsonSchemaFormat(Struct, frozen=True):
    """`strict` is accepted either way: the answer always matches the schema."""

    schema: dict[str, Any] | bool | None = None


class ResponseFormat(Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Struct, frozen=True):
    """vLLM's newer name of the `guided_*` fields. What it says of whitespace is not the client's to choose here."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None


class ChatRequest(Struct, frozen=True):
    """Fields that mean something here; others are ignored, as agents send many that only OpenAI's own service knows."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    prompt_cache_key: str | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    audio: Any = None


def parse_chat_request(body: bytes) -> ChatRequest:
    """Raises `InvalidRequest` naming the field that is wrong."""
    return decode_body(body, ChatRequest)


def to_text_request(chat: ChatRequest, origin: Origin = ANYONE) -> TextRequest:
    """Raises `InvalidRequest` or `UnsupportedParameter`."""
    _refuse_unsupported(chat)
    if chat.top_logprobs is not None and not chat.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    limits = [limit for limit in (chat.max_tokens, chat.max_completion_tokens) if limit is not None]
    return TextRequest(
        model=chat.model,
        messages=tuple(_message(message, f"messages[{index}]") for index, message in enumerate(chat.messages)),
        sampling=_sampling(chat),
        max_tokens=min(limits) if limits else None,
        stop=_stop_strings(chat.stop),
        choices=chat.n or 1,
        top_logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        grammar=_grammar(chat),
        origin=origin if chat.prompt_cache_key is None else origin.within(chat.prompt_cache_key),
    )


def _refuse_unsupported(chat: ChatRequest) -> None:
    """What would change the answer but cannot be honoured is refused by name."""
    if chat.tools or chat.functions:
        name = "tools" if chat.tools else "functions"
        raise UnsupportedParameter(f"This server does not support {name} yet; send the request without.", param=name)
    if chat.audio is not None or any(modality != "text" for modality in chat.modalities or ()):
        name = "modalities" if chat.modalities else "audio"
        raise UnsupportedParameter(f"This server answers with text only; remove {name}.", param=name)
    if chat.structured_outputs and chat.structured_outputs.structural_tag is not None:
        name = "structured_outputs.structural_tag"
        raise UnsupportedParameter(f"This server does not support {name}; send the request without.", param=name)


def _sampling(chat: ChatRequest) -> Sampling:
    defaults = Sampling()

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    return Sampling(
        temperature=given(chat.temperature, defaults.temperature),
        top_p=given(chat.top_p, defaults.top_p),
        top_k=max(0, chat.top_k or 0),
        min_p=given(chat.min_p, defaults.min_p),
        presence_penalty=given(chat.presence_penalty, defaults.presence_penalty),
        frequency_penalty=given(chat.frequency_penalty, defaults.frequency_penalty),
        repetition_penalty=given(chat.repetition_penalty, defaults.repetition_penalty),
        logit_bias=_logit_bias(chat.logit_bias or {}),
        seed=chat.seed,
    )


def _grammar(chat: ChatRequest) -> Grammar | None:
    """What the answer must match. Raises `InvalidRequest` if the request says it in more than one way."""
    asked = []
    if chat.response_format and chat.response_format.type == "json_object":
        asked.append(Grammar("json_object"))
    elif chat.response_format and chat.response_format.type == "json_schema":
        given = chat.response_format.json_schema
        if given is None or given.schema is None:
            raise InvalidRequest("json_schema needs a schema.", param="response_format.json_schema.schema")
        asked.append(Grammar("json_schema", _json(given.schema)))
    asked += _grammars("guided_", chat.guided_json, chat.guided_regex, chat.guided_choice, chat.guided_grammar)
    if form := chat.structured_outputs:
        asked += _grammars("structured_outputs.", form.json, form.regex, form.choice, form.grammar)
        if form.json_object:
            asked.append(Grammar("json_object", param="structured_outputs.json_object"))
    if len(asked) > 1:
        fields = " and ".join(grammar.param for grammar in asked)
        raise InvalidRequest(f"{fields} cannot be combined; send one of them.", param=asked[-1].param)
    return asked[0] if asked else None


def _grammars(
    prefix: str, schema: dict[str, Any] | str | None, regex: str | None, choice: list[str] | None, lark: str | None
) -> Iterator[Grammar]:
    """One for each that is given; `prefix` begins the fields' names."""
    if schema is not None:
        yield Grammar("json_schema", schema if isinstance(schema, str) else _json(schema), f"{prefix}json")
    if regex is not None:
        yield Grammar("regex", regex, f"{prefix}regex")
    if choice is not None:
        yield Grammar("choice", _json(choice), f"{prefix}choice")
    if lark is not None:
        yield Grammar("lark", lark, f"{prefix}grammar")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    for token in bias:
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise InvalidRequest(
                f"logit_bias maps token ids to numbers, but {token[:20]!r} is not a token id.",
                param="logit_bias",
            )
    return {int(token): value for token, value in bias.items()}


def _stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in stops:
        raise InvalidRequest("A stop string must not be empty; leave it out.", param="stop")
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"stop has {len(stops)} strings; at most {MAX_STOP_STRINGS} are allowed.", param="stop")
    return stops


def _message(message: ChatMessage, path: str) -> Message:
    if message.tool_calls or message.role in ("tool", "function"):
        param = f"{path}.tool_calls" if message.tool_calls else f"{path}.role"
        raise UnsupportedParameter("This server does not support tools yet; send text messages only.", param=param)
    role: Role = "system" if message.role == "developer" else message.role  # type: ignore[assignment]
    return Message(role, _text(message.content, f"{path}.content"))


def _text(content: str | list[ContentPart] | None, path: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content or ()):
        if part.type not in TEXT_PART_TYPES or part.text is None:
            raise UnsupportedParameter(
                f"This model takes text only, but the part has type {part.type!r}.", param=f"{path}[{index}]"
            )
        texts.append(part.text)
    return "\n".join(texts)
