"""OpenAI's embeddings: the request's JSON to an `EmbeddingRequest`, and vectors to JSON.

Source: OpenAI API reference, "Embeddings"; `truncate` as in Hugging Face's text-embeddings-inference,
`truncate_prompt_tokens` as in vLLM's server (-1: the model's limit).
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from gateway.errors import InvalidRequest
from gateway.generation.encoding import EmbeddingRequest, Embeddings
from gateway.protocols.json_body import decode_body

MOST_INPUTS = 2048
"""Of one request, as OpenAI has it."""

TokenId = Annotated[int, Meta(ge=0)]


class EmbeddingBody(Struct, frozen=True):
    """`user` names an end user, which changes nothing here."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[str | TokenId | list[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    truncate: bool | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    user: Any = None


class EmbeddingObject(Struct, frozen=True):
    """`embedding` as base64 is little-endian float32."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True):
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage
    object: Literal["list"] = "list"


def parse_embedding_body(body: bytes) -> EmbeddingBody:
    """Raises `InvalidRequest` naming the field that is wrong."""
    return decode_body(body, EmbeddingBody)


def to_embedding_request(body: EmbeddingBody) -> EmbeddingRequest:
    """Raises `InvalidRequest` naming the field that is wrong."""
    texts = _texts(body.input)
    if not texts:
        raise InvalidRequest("input is an empty list; give at least one text.", "input")
    check_number(texts)
    for index, text in enumerate(texts):
        if not text:
            where = "input" if isinstance(body.input, str) else f"input[{index}]"
            raise InvalidRequest(f"{where} is empty; an embedding needs something to embed.", where)
    limit = body.truncate_prompt_tokens
    if limit == 0:
        raise InvalidRequest("truncate_prompt_tokens must be -1 or at least 1.", "truncate_prompt_tokens")
    return EmbeddingRequest(
        body.model,
        texts,
        body.dimensions,
        truncate=bool(body.truncate) or limit is not None,
        most_tokens=limit if limit != -1 else None,
    )


def check_number(texts: Sequence[object]) -> None:
    """Raises `InvalidRequest` for more than may be embedded at once."""
    if len(texts) > MOST_INPUTS:
        raise InvalidRequest(f"input has {len(texts)} texts; send at most {MOST_INPUTS} at once.", "input")


def _texts(given: str | list[str | int | list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """A string, token ids, or a list of strings or of token ids: what the first item is, all must be."""
    if isinstance(given, str):
        return (given,)
    texts: list[str | tuple[int, ...]] = []
    for index, item in enumerate(given):
        if type(item) is not type(given[0]):
            raise InvalidRequest("input mixes texts and token ids; send one kind.", f"input[{index}]")
        texts += [item] if isinstance(item, str) else [tuple(item)] if isinstance(item, list) else []
    ids = tuple(item for item in given if isinstance(item, int))
    return (ids,) if ids else tuple(texts)


def embedding_list(body: EmbeddingBody, embeddings: Embeddings) -> EmbeddingList:
    if body.encoding_format == "base64":
        rows = embeddings.vectors.astype("<f4")
        coded: list[list[float] | str] = [base64.b64encode(row.tobytes()).decode() for row in rows]
    else:
        coded = embeddings.vectors.tolist()
    data = [EmbeddingObject(index, vector) for index, vector in enumerate(coded)]
    return EmbeddingList(data, body.model, EmbeddingUsage(embeddings.tokens, embeddings.tokens))
