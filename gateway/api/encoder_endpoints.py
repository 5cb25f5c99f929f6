"""Endpoints that embed and rank texts."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.event_stream import unless_disconnected
from gateway.api.json_response import json_response
from gateway.api.request_origin import charge_tokens
from gateway.api.warning_header import warning_headers
from gateway.protocols.json_body import ignored_fields
from gateway.protocols.openai_embeddings import (
    EmbeddingBody,
    embedding_list,
    parse_embedding_body,
    to_embedding_request,
)
from gateway.protocols.rerank import (
    RerankBody,
    parse_rerank_body,
    rerank_answer,
    rerank_warnings,
    to_ranking_request,
)
from gateway.serving.encoding import EncoderServing


class EncoderEndpoints:
    def __init__(self, encoders: EncoderServing) -> None:
        self._encoders = encoders

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings"""
        content = await request.body()
        body = parse_embedding_body(content)
        embeddings = await unless_disconnected(request, self._encoders.embed(to_embedding_request(body)))
        charge_tokens(request, embeddings.tokens)
        return json_response(
            embedding_list(body, embeddings), headers=warning_headers(ignored_fields(content, EmbeddingBody))
        )

    async def rerank(self, request: Request) -> Response:
        """POST /v1/rerank"""
        content = await request.body()
        body = parse_rerank_body(content)
        ranking = await unless_disconnected(request, self._encoders.rank(to_ranking_request(body)))
        charge_tokens(request, ranking.tokens)
        headers = warning_headers(ignored_fields(content, RerankBody), rerank_warnings(ranking))
        return json_response(rerank_answer(body, ranking, request.state.request_id), headers=headers)
