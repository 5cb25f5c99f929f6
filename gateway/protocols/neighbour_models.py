"""Models as LM Studio's and LiteLLM's servers list them, for clients that look there for a model's context.

Source: LM Studio's documentation, "REST API v0" and "LM Studio API"; LiteLLM's documentation, "Model Management".
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from gateway.generation.model_card import ModelCard

LITE_LLM_MODES: dict[str, Literal["chat", "embedding", "rerank"]] = {
    "text": "chat",
    "embeddings": "embedding",
    "ranking": "rerank",
}


class LmStudioModel(Struct, frozen=True):
    id: str
    arch: str
    quantization: str
    state: Literal["loaded", "not-loaded"]
    max_context_length: int | UnsetType
    loaded_context_length: int | UnsetType
    capabilities: list[str]
    type: Literal["llm", "embeddings"]
    object: Literal["model"] = "model"
    publisher: str = "mlx-gateway"
    compatibility_type: Literal["mlx"] = "mlx"


class LmStudioList(Struct, frozen=True):
    data: list[LmStudioModel]
    object: Literal["list"] = "list"


class LmStudioQuantization(Struct, frozen=True):
    name: str
    bits_per_weight: int


class LmStudioInstanceConfig(Struct, frozen=True):
    context_length: int


class LmStudioInstance(Struct, frozen=True):
    id: str
    config: LmStudioInstanceConfig


class LmStudioCapabilities(Struct, frozen=True):
    trained_for_tool_use: bool
    vision: bool = False


class LmStudioKey(Struct, frozen=True):
    """A model of the newer API, where `loaded_instances` says whether it is in memory."""

    key: str
    display_name: str
    architecture: str
    quantization: LmStudioQuantization | None
    size_bytes: int
    max_context_length: int
    loaded_instances: list[LmStudioInstance]
    capabilities: LmStudioCapabilities
    type: Literal["llm", "embedding"]
    publisher: str = "mlx-gateway"
    params_string: None = None
    format: Literal["mlx"] = "mlx"
    description: None = None


class LmStudioKeys(Struct, frozen=True):
    models: list[LmStudioKey]


class LiteLlmParams(Struct, frozen=True):
    model: str


class LiteLlmInfo(Struct, frozen=True):
    """Tokens; null until the model's files were read. Costs are nil: it runs here."""

    id: str
    max_tokens: int | None
    max_input_tokens: int | None
    max_output_tokens: int | None
    supports_function_calling: bool
    supports_reasoning: bool
    mode: Literal["chat", "embedding", "rerank"]
    supports_vision: bool = False
    supports_response_schema: bool = True
    litellm_provider: str = "openai"
    input_cost_per_token: float = 0
    output_cost_per_token: float = 0
    db_model: bool = False


class LiteLlmModel(Struct, frozen=True):
    model_name: str
    litellm_params: LiteLlmParams
    model_info: LiteLlmInfo


class LiteLlmList(Struct, frozen=True):
    data: list[LiteLlmModel]


def lm_studio_model(card: ModelCard) -> LmStudioModel:
    context = UNSET if card.context_tokens is None else card.context_tokens
    return LmStudioModel(
        card.id,
        card.architecture,
        f"{card.quantization_bits}bit" if card.quantization_bits else "none",
        "loaded" if card.loaded else "not-loaded",
        context,
        context if card.loaded else UNSET,
        ["tool_use"] if card.calls_tools else [],
        "llm" if card.purpose == "text" else "embeddings",
    )


def lm_studio_list(cards: Sequence[ModelCard]) -> LmStudioList:
    return LmStudioList([lm_studio_model(card) for card in cards])


def lm_studio_keys(cards: Sequence[ModelCard]) -> LmStudioKeys:
    return LmStudioKeys([_lm_studio_key(card) for card in cards])


def _lm_studio_key(card: ModelCard) -> LmStudioKey:
    context, bits = card.context_tokens or 0, card.quantization_bits
    return LmStudioKey(
        card.id,
        card.id,
        card.architecture,
        LmStudioQuantization(f"{bits}bit", bits) if bits else None,
        card.weight_bytes,
        context,
        [LmStudioInstance(card.id, LmStudioInstanceConfig(context))] if card.loaded else [],
        LmStudioCapabilities(card.calls_tools),
        "llm" if card.purpose == "text" else "embedding",
    )


def lite_llm_list(cards: Sequence[ModelCard]) -> LiteLlmList:
    return LiteLlmList(
        [
            LiteLlmModel(
                card.id,
                LiteLlmParams(f"openai/{card.id}"),
                LiteLlmInfo(
                    card.id,
                    card.context_tokens,
                    card.context_tokens,
                    card.context_tokens,
                    card.calls_tools,
                    card.thinks,
                    LITE_LLM_MODES[card.purpose],
                ),
            )
            for card in cards
        ]
    )
