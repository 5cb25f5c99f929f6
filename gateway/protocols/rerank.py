"""Reranking, which OpenAI has not: the request and answer that Cohere, Jina and Voyage have in common.

Sources: Cohere API reference, "Rerank" (v1 and v2: `results`, `meta`), Jina's reranker API (`results`, `usage`),
Voyage's (`data`, `top_k`). Clients of each find what they look for.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.errors import InvalidRequest
from gateway.generation.encoding import Ranking, RankingMethod, RankingRequest
from gateway.protocols.json_body import decode_body

MOST_DOCUMENTS = 2048


class TextDocument(Struct, frozen=True):
    text: str


class RerankBody(Struct, frozen=True):
    """`top_k` is Voyage's name of `top_n`."""

    model: Annotated[str, Meta(min_length=1)]
    query: str
    documents: list[str | TextDocument]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    top_k: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None


class RerankResult(Struct, frozen=True):
    index: int
    relevance_score: float
    document: TextDocument | UnsetType = UNSET


class RerankMeta(Struct, frozen=True):
    """How the scores came about, and how many documents were too long to be read to their end."""

    method: RankingMethod
    cut_documents: int


class RerankUsage(Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class RerankAnswer(Struct, frozen=True):
    """`data` and `results` are the same, the best first."""

    id: str
    model: str
    data: list[RerankResult]
    results: list[RerankResult]
    usage: RerankUsage
    meta: RerankMeta
    object: Literal["list"] = "list"


def parse_rerank_body(body: bytes) -> RerankBody:
    """Raises `InvalidRequest` naming the field that is wrong."""
    return decode_body(body, RerankBody)


def to_ranking_request(body: RerankBody) -> RankingRequest:
    """Raises `InvalidRequest` naming the field that is wrong."""
    if not body.query:
        raise InvalidRequest("query is empty; say what the documents shall be compared with.", "query")
    if not body.documents:
        raise InvalidRequest("documents is an empty list; give at least one.", "documents")
    if len(body.documents) > MOST_DOCUMENTS:
        raise InvalidRequest(
            f"There are {len(body.documents)} documents; send at most {MOST_DOCUMENTS} at once.", "documents"
        )
    return RankingRequest(body.model, body.query, _texts(body), body.top_n or body.top_k)


def rerank_answer(body: RerankBody, ranking: Ranking, request_id: str) -> RerankAnswer:
    texts = _texts(body)
    results = [
        RerankResult(ranked.index, ranked.score, TextDocument(texts[ranked.index]) if body.return_documents else UNSET)
        for ranked in ranking.documents
    ]
    usage = RerankUsage(ranking.tokens, ranking.tokens)
    meta = RerankMeta(ranking.method, ranking.cut_documents)
    return RerankAnswer(request_id, body.model, results, results, usage, meta)


def rerank_warnings(ranking: Ranking) -> list[str]:
    """What the client should know of the scores."""
    warnings = []
    if ranking.method == "embedding_similarity":
        warnings.append("scores are the similarity of embeddings, as this model is no reranker")
    if ranking.cut_documents:
        warnings.append(f"{ranking.cut_documents} documents were too long for the model and cut off")
    return warnings


def _texts(body: RerankBody) -> tuple[str, ...]:
    return tuple(document if isinstance(document, str) else document.text for document in body.documents)
