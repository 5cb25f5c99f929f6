"""What a model needs before its weights: files on this disk, a tokenizer, limits. From then on requests can be
understood, and refused for what is wrong with them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import Config, ModelConfig
from gateway.engine.encoders.embedder import Embedder
from gateway.engine.encoders.encoder_config import EncoderConfig, read_encoder_config
from gateway.engine.encoders.tokenizer import EncoderTokenizer
from gateway.engine.engine import Engine
from gateway.engine.grammar_compiler import GrammarCompiler
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.hardware.blas import Blas
from gateway.model_pool.background import in_background
from gateway.model_pool.served_model import EncoderModel, TextModel
from gateway.model_store.fingerprint import fingerprint
from gateway.model_store.quantization_plan import WeightRoom
from gateway.model_store.store import ModelStore, StoredModel
from gateway.model_store.weight_sizes import ModelSize, estimate_model
from gateway.observability.metrics import ModelMetrics
from gateway.prefix_cache.prefix_caches import PrefixCaches

if TYPE_CHECKING:  # it imports mlx, which only the MLX thread may do at run time
    from gateway.engine.model_loader import TextSide

USUAL_TOKENS = 4096
"""Of prompt and answer together."""

Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all models are made with; one for the process."""

    config: Config
    store: ModelStore
    thread: MlxThread
    memory: ProcessMemory
    prefixes: PrefixCaches
    blas: Blas


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model whose weights may be loaded.

    The files say that a prompt and its answer have at most `context_tokens`. `fingerprint` tells them from others,
    `size` is by their headers.
    """

    serving: TextModel | EncoderModel
    context_tokens: int
    folder: Path
    fingerprint: bytes
    size: ModelSize
    origin: str

    def limited(self, context_tokens: int) -> "PreparedModel":
        """The same with at most so many tokens of context; 0 leaves it to the files."""
        tokens = min(self.context_tokens, context_tokens or self.context_tokens)
        return replace(self, serving=replace(self.serving, context_tokens=tokens))

    @property
    def needed_bytes(self) -> int:
        """Of memory: the weights, and room for one request of a usual length."""
        return self.size.weight_bytes + self.size.kv_bytes(min(self.serving.context_tokens, USUAL_TOKENS))


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """Files on this disk. `encoder` says what kind of encoder they hold if they do."""

    stored: StoredModel
    fingerprint: bytes
    encoder: EncoderConfig | None
    size: ModelSize


async def locate(offered: ModelConfig, workshop: Workshop, report: Report) -> LocatedModel:
    """Downloads, imports or quantises if need be. `report` is called on the event loop.

    Raises a `GatewayError`, or what a library raises for files that are broken.
    """
    loop = asyncio.get_running_loop()

    def tell(fraction: float, doing: str) -> None:
        loop.call_soon_threadsafe(report, fraction, doing)

    room = await asyncio.wrap_future(workshop.thread.run(lambda: _weight_room(workshop)))

    def in_store() -> LocatedModel:
        found = workshop.store.locate(offered.source, tell, trusted=offered.trusted)
        if offered.quantize:
            found = workshop.store.quantized_as_configured(found, offered.quantize, room, tell)
        size = estimate_model(found.folder, room.expanded_bytes)
        return LocatedModel(found, fingerprint(found.folder, found.manifest), read_encoder_config(found.folder), size)

    return await in_background(in_store, "model-store")


async def prepare(
    model_id: str, offered: ModelConfig, workshop: Workshop, metrics: ModelMetrics, report: Report
) -> PreparedModel:
    """`locate`, and what requests are understood with."""
    located = await locate(offered, workshop, report)
    folder, made_of = located.stored.folder, located.fingerprint
    report(0.0, "reading the tokenizer")
    if located.encoder is None:
        serving: TextModel | EncoderModel = await _text_model(
            model_id, folder, made_of, offered.trusted, workshop, metrics
        )
    else:
        serving = await _encoder(model_id, folder, located.encoder, workshop, metrics)
    return PreparedModel(serving, serving.context_tokens, folder, made_of, located.size, located.stored.origin)


async def _text_model(
    model_id: str, folder: Path, made_of: bytes, trusted: bool, workshop: Workshop, metrics: ModelMetrics
) -> TextModel:
    # The first import of mlx belongs on its thread; a tokenizer has no arrays, and takes too long there.
    await asyncio.wrap_future(workshop.thread.run(lambda: _import_architecture(folder, trusted)))
    side = await in_background(lambda: _load_text_side(folder, trusted), "tokenizer")
    config = workshop.config.engine
    return TextModel(
        side.tokenizer,
        made_of,
        side.template,
        side.vocabulary,
        side.longest_token_bytes,
        side.context_tokens,
        side.end_tokens,
        GrammarCompiler(side.tokenizer, side.vocabulary, side.end_tokens),
        Engine(model_id, workshop.thread, workshop.memory, workshop.prefixes, config, metrics, trusted),
        metrics,
        side.architecture,
        side.quantization_bits,
    )


async def _encoder(
    model_id: str, folder: Path, config: EncoderConfig, workshop: Workshop, metrics: ModelMetrics
) -> EncoderModel:
    return EncoderModel(
        await in_background(lambda: EncoderTokenizer(folder, config), "encoder-tokenizer"),
        config,
        config.context_tokens,
        Embedder(model_id, workshop.thread, workshop.memory, workshop.config.engine),
        metrics,
    )


def _import_architecture(folder: Path, trusted: bool) -> None:
    from gateway.engine.model_loader import import_architecture

    import_architecture(folder, trusted=trusted)


def _load_text_side(folder: Path, trusted: bool) -> "TextSide":
    from gateway.engine.model_loader import load_text_side

    return load_text_side(folder, trusted=trusted)


def _weight_room(workshop: Workshop) -> WeightRoom:
    """On the MLX thread."""
    from gateway.hardware.backend import detect_backend

    dtype = detect_backend(workshop.config.hardware, workshop.blas).dtype
    return WeightRoom(workshop.memory.ledger().budget_bytes, dtype.size if dtype else None)
