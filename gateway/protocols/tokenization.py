"""Texts to tokens and back as vLLM's server has it: the shapes of /tokenize and /detokenize.

Source: vLLM's documentation, "OpenAI-Compatible Server", Tokenizer API. A body with `messages` is a chat completion's.
"""

from typing import Annotated

from msgspec import Meta, Struct

from gateway.errors import UnsupportedParameter
from gateway.generation.request import Conversation
from gateway.protocols.json_body import decode_body, ignored_fields
from gateway.protocols.openai_chat import ChatRequest, to_text_request

MOST_TOKENS = 131_072
"""To turn into text at once; that many stop every stream for some 30 ms."""


class TokenizeFields(Struct, frozen=True):
    model: Annotated[str, Meta(min_length=1)]
    prompt: str | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Struct, frozen=True):
    model: Annotated[str, Meta(min_length=1)]
    tokens: Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)]], Meta(max_length=MOST_TOKENS)]


class Tokenized(Struct, frozen=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(Struct, frozen=True):
    prompt: str


def tokenize_ignored(body: bytes, fields: TokenizeFields) -> list[str]:
    """The names in a body with these fields that mean nothing here."""
    ignored = ignored_fields(body, TokenizeFields)
    if fields.prompt is not None:
        return ignored
    return sorted(set(ignored) & set(ignored_fields(body, ChatRequest)))


def to_tokenize(body: bytes) -> tuple[TokenizeFields, str | Conversation]:
    """The fields, and what to put into tokens. Raises `InvalidRequest`."""
    fields = decode_body(body, TokenizeFields)
    if fields.prompt is not None:
        return fields, fields.prompt
    if fields.add_generation_prompt is False:
        raise UnsupportedParameter(
            "This server counts a conversation with the beginning of the answer; remove add_generation_prompt.",
            param="add_generation_prompt",
        )
    prompt = to_text_request(decode_body(body, ChatRequest)).prompt
    assert isinstance(prompt, Conversation)
    return fields, prompt
