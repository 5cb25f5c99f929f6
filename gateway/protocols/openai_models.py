"""OpenAI's model list, with the context length in the fields where clients look for it."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class ModelMeta(Struct, frozen=True):
    """`n_embd` are the numbers of an embedding, absent for a model that has none."""

    n_ctx: int
    n_embd: int | UnsetType = UNSET


class ModelObject(Struct, frozen=True):
    """`context_length`, `max_model_len` and `meta.n_ctx` are tokens, absent until the model's files were read.

    So is `purpose`: "text", "embeddings" or "ranking". `parent` is the base model of an adapter, as vLLM tells it.
    """

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str = "mlx-gateway"
    context_length: int | UnsetType = UNSET
    max_model_len: int | UnsetType = UNSET
    meta: ModelMeta | UnsetType = UNSET
    purpose: str | UnsetType = UNSET
    parent: str | UnsetType = UNSET


class ModelList(Struct, frozen=True):
    data: list[ModelObject]
    object: Literal["list"] = "list"


def model_object(
    model_id: str,
    created: int,
    context_tokens: int | None = None,
    purpose: str | None = None,
    dimensions: int | None = None,
    parent: str | None = None,
) -> ModelObject:
    """`created` is in Unix seconds."""
    base = UNSET if parent is None else parent
    if context_tokens is None:
        return ModelObject(model_id, created, parent=base)
    return ModelObject(
        model_id,
        created,
        context_length=context_tokens,
        max_model_len=context_tokens,
        meta=ModelMeta(context_tokens, UNSET if dimensions is None else dimensions),
        purpose=UNSET if purpose is None else purpose,
        parent=base,
    )
