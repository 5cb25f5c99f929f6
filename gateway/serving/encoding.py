"""The story of a request for embeddings or for a ranking, from top to bottom."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.engine.encoders.tokenizer import EncoderInput
from gateway.errors import GatewayError, InputTooLong, InvalidRequest
from gateway.generation.encoding import (
    EmbeddingRequest,
    Embeddings,
    RankedDocument,
    Ranking,
    RankingMethod,
    RankingRequest,
)
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.served_model import EncoderModel
from gateway.observability.metrics import Metrics
from gateway.observability.request_record import current_record

Request = TypeVar("Request", EmbeddingRequest, RankingRequest)
Result = TypeVar("Result")
Vectors = NDArray[np.float32]


class EncoderServing:
    """Serves with the pool's encoders. Belongs to the event loop; cancel a call to have its work dropped."""

    def __init__(self, pool: ModelPool, metrics: Metrics, tokenizing: Executor) -> None:
        """`tokenizing` are the threads that put texts into tokens."""
        self._pool = pool
        self._tokenizing = tokenizing
        self._metrics = metrics

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Raises a `GatewayError` when the request is refused or fails."""
        return await self._counted(self._embed, request)

    async def rank(self, request: RankingRequest) -> Ranking:
        """As `embed`. With a model that only embeds, documents are ranked by their similarity to the query."""
        return await self._counted(self._rank, request)

    async def _counted(self, serve: Callable[[Request], Awaitable[Result]], request: Request) -> Result:
        current_record().asks(request.model)
        try:
            return await serve(request)
        except GatewayError as error:
            self._metrics.refused_requests.labels(type(error).__name__).inc()
            raise

    async def _embed(self, request: EmbeddingRequest) -> Embeddings:
        model = await self._pool.encoder_model(request.model)
        if model.config.cross_encoder:
            raise InvalidRequest(f"{request.model} ranks documents and has no embeddings.", "model")
        if request.dimensions is not None and request.dimensions > model.config.dimensions:
            raise InvalidRequest(
                f"dimensions is {request.dimensions}, but this model's embeddings have {model.config.dimensions}.",
                "dimensions",
            )
        limit = min(model.context_tokens, request.most_tokens or model.context_tokens)
        most_tokens = limit if request.truncate else None
        texts = await self._on_thread(lambda: _tokenized(request.texts, model, most_tokens))
        if not request.truncate:
            _refuse_long(texts, model)
        vectors = await self._computed(texts, model, "input", request.model)
        if request.dimensions is not None:
            vectors = _normalized(vectors[:, : request.dimensions])
        return Embeddings(vectors, _tokens(texts))

    async def _rank(self, request: RankingRequest) -> Ranking:
        model = await self._pool.encoder_model(request.model)
        if model.config.cross_encoder:
            texts = await self._on_thread(lambda: _pairs(request, model))
            scores = _sigmoid((await self._computed(texts, model, "documents", request.model))[:, 0])
            return _ranking(request, scores, "cross_encoder", texts)
        asked = [request.query, *request.documents]
        texts = await self._on_thread(lambda: _tokenized(asked, model, model.context_tokens))
        if texts[0].was_cut:
            raise _too_long(texts[0], model, "query")
        vectors = _normalized(await self._computed(texts, model, "documents", request.model))
        return _ranking(request, vectors[1:] @ vectors[0], "embedding_similarity", texts)

    async def _computed(self, texts: list[EncoderInput], model: EncoderModel, field: str, model_id: str) -> Vectors:
        """Raises `InvalidRequest`, which names the request's `field`, for tokens that the model has not."""
        await asyncio.to_thread(_refuse_unknown, texts, model, field)
        async with self._pool.lease(model_id) as lease:
            await lease.granted()
            self._pool.check_same(model_id, model)
            current_record().used(_tokens(texts))
            model.metrics.engine.encoder_requests.inc()
            model.metrics.engine.encoder_tokens.inc(_tokens(texts))
            with model.metrics.engine.encoder_running.track_inprogress():
                return await model.engine.encode(texts)

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        """Work that nobody waits for any more does not begin."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, work)


def _tokenized(
    texts: Sequence[str | tuple[int, ...]], model: EncoderModel, most_tokens: int | None
) -> list[EncoderInput]:
    """Blocks. Raises `InvalidRequest` for a text without tokens."""
    tokenizer = model.tokenizer
    inputs = []
    for index, text in enumerate(texts):
        made = tokenizer.text(text, most_tokens) if isinstance(text, str) else tokenizer.ids(text, most_tokens)
        if not made.ids:
            raise InvalidRequest(f"input[{index}] has no tokens; an embedding needs something to embed.", "input")
        inputs.append(made)
    return inputs


def _pairs(request: RankingRequest, model: EncoderModel) -> list[EncoderInput]:
    """Blocks."""
    room = model.tokenizer.pair_room(request.query, model.context_tokens)
    if model.tokenizer.is_overlong(request.query):
        least_tokens = model.context_tokens - min(room, -1)
        raise InputTooLong(least_tokens, model.context_tokens, "query", at_least=True)
    if room < 1:
        raise InputTooLong(model.context_tokens - room, model.context_tokens, "query")
    return model.tokenizer.pairs(request.query, request.documents, model.context_tokens)


def _refuse_long(texts: Sequence[EncoderInput], model: EncoderModel) -> None:
    for index, text in enumerate(texts):
        if text.was_cut or len(text.ids) > model.context_tokens:
            raise _too_long(text, model, "input" if len(texts) == 1 else f"input[{index}]")


def _too_long(text: EncoderInput, model: EncoderModel, param: str) -> InputTooLong:
    tokens = max(text.whole_tokens, model.context_tokens + 1)
    return InputTooLong(tokens, model.context_tokens, param, at_least=text.is_beginning)


def _refuse_unknown(texts: Sequence[EncoderInput], model: EncoderModel, field: str) -> None:
    """Blocks. Tokens, or types of tokens, that the model has not: mlx would read foreign memory.

    A client may send them, and a tokenizer may have more than its model.
    """
    shape = model.config.shape
    for index, text in enumerate(texts):
        if (largest := max(text.ids)) >= shape.vocabulary:
            raise InvalidRequest(
                f"{field}[{index}] holds token {largest}, but this model's tokens are 0 to {shape.vocabulary - 1}.",
                field,
            )
        if shape.types and (largest := max(text.types)) >= shape.types:
            raise InvalidRequest(
                f"{field}[{index}] has a token of type {largest}, but this model's types are 0 to {shape.types - 1}: "
                "its tokenizer.json does not fit its config.json.",
                field,
            )


def _ranking(request: RankingRequest, scores: Vectors, method: RankingMethod, texts: Sequence[EncoderInput]) -> Ranking:
    best = np.argsort(-scores, kind="stable")[: request.most]
    return Ranking(
        tuple(RankedDocument(int(index), float(scores[index])) for index in best),
        method,
        _tokens(texts),
        sum(text.was_cut for text in texts),
    )


def _tokens(texts: Sequence[EncoderInput]) -> int:
    return sum(len(text.ids) for text in texts)


def _normalized(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit


def _sigmoid(scores: Vectors) -> Vectors:
    return (1 / (1 + np.exp(-scores.astype(np.float64)))).astype(np.float32)
