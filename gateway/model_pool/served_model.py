"""What requests need of a resident model: one that generates text, or one that embeds or ranks texts."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from gateway.engine.encoders.embedder import Embedder
from gateway.engine.encoders.encoder_config import EncoderConfig
from gateway.engine.encoders.tokenizer import EncoderTokenizer
from gateway.engine.engine import Engine
from gateway.engine.grammar_compiler import GrammarCompiler
from gateway.engine.text_limit import TextLimit
from gateway.generation.adapter import BASE
from gateway.observability.metrics import ModelMetrics


class Purpose(StrEnum):
    """What a model is for."""

    TEXT = "text"
    EMBEDDINGS = "embeddings"
    RANKING = "ranking"


@dataclass(frozen=True, slots=True)
class TextModel:
    """All that is needed to serve a request; its weights may still be on their way.

    `tokenizer` is an mlx-lm `TokenizerWrapper`; token ids are below `vocabulary`. `fingerprint` tells the model's files
    from others, `template` is the text of its chat template. Prompt and answer together hold at most `context_tokens`.
    `architecture` is what its config calls its type; weights of 0 `quantization_bits` are in full precision. Requests
    go through its `adapter`.
    """

    purpose: ClassVar[Purpose] = Purpose.TEXT

    tokenizer: Any
    fingerprint: bytes
    template: str
    vocabulary: int
    longest_token_bytes: int
    context_tokens: int
    end_tokens: frozenset[int]
    grammars: GrammarCompiler
    engine: Engine
    metrics: ModelMetrics
    architecture: str = ""
    quantization_bits: int = 0
    adapter: str = BASE

    @property
    def text_limit(self) -> TextLimit:
        """Of a prompt's text."""
        return TextLimit(self.context_tokens, self.longest_token_bytes)


@dataclass(frozen=True, slots=True)
class EncoderModel:
    """All that is needed to serve a request; its weights may still be on their way.

    A text, special tokens included, has at most `context_tokens`.
    """

    tokenizer: EncoderTokenizer
    config: EncoderConfig
    context_tokens: int
    engine: Embedder
    metrics: ModelMetrics

    @property
    def architecture(self) -> str:
        return self.config.family

    @property
    def purpose(self) -> Purpose:
        return Purpose.RANKING if self.config.cross_encoder else Purpose.EMBEDDINGS
