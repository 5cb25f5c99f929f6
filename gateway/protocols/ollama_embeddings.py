"""Ollama's embeddings: the request's JSON to an `EmbeddingRequest`, and vectors to JSON.

Source: Ollama's API documentation (docs/api.md), "Generate Embeddings" and the older "Generate Embedding".
"""

from typing import Annotated

from msgspec import Meta, Struct

from gateway.errors import InvalidRequest
from gateway.generation.encoding import EmbeddingRequest, Embeddings
from gateway.protocols.ollama import LATEST
from gateway.protocols.openai_embeddings import check_number

NANOSECONDS = 1_000_000_000


class EmbedRequest(Struct, frozen=True):
    """Longer texts are cut unless `truncate` is false."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[str]
    truncate: bool | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None


class OldEmbedRequest(Struct, frozen=True):
    model: Annotated[str, Meta(min_length=1)]
    prompt: str


class EmbedAnswer(Struct, frozen=True):
    """Durations in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    prompt_eval_count: int
    load_duration: int = 0


class OldEmbedAnswer(Struct, frozen=True):
    embedding: list[float]


def to_embedding_request(asked: EmbedRequest | OldEmbedRequest) -> EmbeddingRequest:
    """Raises `InvalidRequest` naming the field that is wrong."""
    if isinstance(asked, OldEmbedRequest):
        return _request(asked.model, "prompt", [asked.prompt], True, None)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    return _request(asked.model, "input", texts, asked.truncate is not False, asked.dimensions)


def _request(model: str, field: str, texts: list[str], truncate: bool, dimensions: int | None) -> EmbeddingRequest:
    if not texts or not all(texts):
        raise InvalidRequest(f"{field} is empty; an embedding needs something to embed.", field)
    check_number(texts)
    return EmbeddingRequest(model.removesuffix(LATEST), tuple(texts), dimensions, truncate)


def embed_answer(asked: EmbedRequest, embeddings: Embeddings, seconds: float) -> EmbedAnswer:
    return EmbedAnswer(asked.model, embeddings.vectors.tolist(), round(seconds * NANOSECONDS), embeddings.tokens)


def old_embed_answer(embeddings: Embeddings) -> OldEmbedAnswer:
    return OldEmbedAnswer(embeddings.vectors[0].tolist())
