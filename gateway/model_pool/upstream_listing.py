"""What a server's `/v1/models` tells of a model."""

import msgspec
from msgspec import Struct


class Meta(Struct, frozen=True):
    """llama.cpp's and the gateway's."""

    n_ctx: int | None = None
    n_embd: int | None = None


class Entry(Struct, frozen=True):
    id: str
    max_model_len: int | None = None
    context_length: int | None = None
    meta: Meta | None = None
    purpose: str | None = None


class Models(Struct, frozen=True):
    data: list[Entry]


class Listed(Struct, frozen=True):
    """What is None was not said."""

    context_tokens: int | None = None
    purpose: str | None = None
    dimensions: int | None = None


def listed_model(body: bytes, model: str) -> Listed:
    """What the list says of `model`; nothing if it is no such list."""
    try:
        entries = msgspec.json.decode(body, type=Models).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Listed()
    for entry in entries:
        if entry.id == model:
            meta = entry.meta or Meta()
            lengths = (entry.max_model_len, entry.context_length, meta.n_ctx)
            known = next((length for length in lengths if length is not None and length > 0), None)
            return Listed(known, entry.purpose, meta.n_embd)
    return Listed()
