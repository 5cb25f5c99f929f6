"""Models as Ollama's API lists and shows them.

Source: Ollama's API documentation (docs/api.md). Clients look for `capabilities` and `<architecture>.context_length`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from msgspec import Struct

from gateway.generation.model_card import ModelCard

OLLAMA_VERSION = "0.12.6"
"""Whose API this is; clients want at least 0.6.4."""

FOR_EVER = "9999-12-31T23:59:59Z"


class Version(Struct, frozen=True):
    version: str


class Details(Struct, frozen=True):
    family: str
    families: list[str]
    quantization_level: str
    parent_model: str = ""
    format: str = "safetensors"
    parameter_size: str = ""


class ListedModel(Struct, frozen=True):
    """`size` is in bytes."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class ModelTags(Struct, frozen=True):
    models: list[ListedModel]


class RunningModel(Struct, frozen=True):
    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


class RunningModels(Struct, frozen=True):
    models: list[RunningModel]


class ShownModel(Struct, frozen=True):
    template: str
    details: Details
    model_info: dict[str, str | int]
    capabilities: list[str]
    modified_at: str
    modelfile: str = ""
    parameters: str = ""


def ollama_version() -> Version:
    """With ours as build metadata (semver.org, section 10), which comparisons ignore."""
    return Version(f"{OLLAMA_VERSION}+mlx-gateway.{version('mlx-gateway')}")


def model_tags(cards: Sequence[ModelCard]) -> ModelTags:
    return ModelTags(
        [
            ListedModel(card.id, card.id, _modified(card), card.weight_bytes, card.digest, _details(card))
            for card in cards
        ]
    )


def running_models(cards: Sequence[ModelCard]) -> RunningModels:
    """Those in memory."""
    return RunningModels(
        [
            RunningModel(
                card.id,
                card.id,
                card.weight_bytes,
                card.digest,
                _details(card),
                FOR_EVER,
                card.weight_bytes,
                card.context_tokens or 0,
            )
            for card in cards
            if card.loaded
        ]
    )


def shown_model(card: ModelCard) -> ShownModel:
    info: dict[str, str | int] = {"general.architecture": card.architecture, "general.basename": card.id}
    if card.context_tokens is not None:
        info[f"{card.architecture}.context_length"] = card.context_tokens
    can = {
        "completion": card.purpose == "text",
        "embedding": card.purpose == "embeddings",
        "tools": card.calls_tools,
        "thinking": card.thinks,
        "insert": card.fills_in,
    }
    return ShownModel(
        card.template, _details(card), info, [name for name, able in can.items() if able], _modified(card)
    )


def _details(card: ModelCard) -> Details:
    level = f"{card.quantization_bits}-bit" if card.quantization_bits else ""
    return Details(card.architecture, [card.architecture] if card.architecture else [], level)


def _modified(card: ModelCard) -> str:
    return datetime.fromtimestamp(card.created, UTC).isoformat().replace("+00:00", "Z")
