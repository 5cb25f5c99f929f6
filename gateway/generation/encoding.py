"""What a client asks of a model that embeds or ranks texts, and what it gets, in the gateway's own words."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RankingMethod = Literal["cross_encoder", "embedding_similarity"]


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts, or their token ids in the model's own vocabulary, to which nothing is added.

    With `dimensions` only so many of each vector are wanted. Texts longer than the model's limit are refused, unless
    `truncate`: then their beginning counts, `most_tokens` of it if that is less than the model's limit.
    """

    model: str
    texts: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    truncate: bool = False
    most_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """`vectors` (texts, dimensions) in the order of the texts."""

    vectors: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """`most` of the documents are wanted, all when it is None."""

    model: str
    query: str
    documents: tuple[str, ...]
    most: int | None = None


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """`index` counts from 0 in the order of the request. A larger `score` is a better match."""

    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best first. A cross-encoder's scores are probabilities, a similarity is a cosine (-1 to 1).

    Of `cut_documents` only the beginning was read.
    """

    documents: tuple[RankedDocument, ...]
    method: RankingMethod
    tokens: int
    cut_documents: int
