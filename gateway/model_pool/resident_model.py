"""One model on its way into memory and in it. Belongs to the event loop."""

import asyncio
import logging
import time
from collections.abc import Awaitable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import Config, ModelConfig
from gateway.engine.encoders.embedder import Embedder, EncoderReady
from gateway.engine.encoders.encoder_config import EncoderConfig, read_encoder_config
from gateway.engine.encoders.tokenizer import EncoderTokenizer
from gateway.engine.engine import Engine, EngineReady
from gateway.engine.grammar_compiler import GrammarCompiler
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.errors import GatewayError, ModelBusy, ModelUnavailable, ShuttingDown
from gateway.hardware.blas import Blas
from gateway.model_pool.background import in_background
from gateway.model_pool.served_model import EncoderModel, Purpose, TextModel
from gateway.model_store.fingerprint import fingerprint
from gateway.model_store.store import ModelStore, StoredModel
from gateway.observability.metrics import Metrics
from gateway.prefix_cache.prefix_caches import PrefixCaches

if TYPE_CHECKING:  # it imports mlx, which only the MLX thread may do at run time
    from gateway.engine.model_loader import TextSide

log = logging.getLogger(__name__)

CALM_SECONDS = 60.0
"""An engine that broke down is built again at once if it lived so long, or for the first time."""

FIRST_WAIT_SECONDS = 1.0
MOST_WAIT_SECONDS = 60.0
"""Before an engine is built again that breaks down time after time."""


class ModelState(StrEnum):
    LOCATING = "locating"  # downloading or importing the files if need be
    LOADING = "loading"
    READY = "ready"
    ON_DISK = "on disk"  # evicted; the next request loads it again
    FAILED = "failed"


class ResidentModel:
    """Loads one model, says how far that is, and gives it to requests as soon as they can be understood."""

    def __init__(
        self,
        model_id: str,
        offered: ModelConfig,
        config: Config,
        store: ModelStore,
        thread: MlxThread,
        memory: ProcessMemory,
        prefixes: PrefixCaches,
        blas: Blas,
        metrics: Metrics,
    ) -> None:
        self.model_id = model_id
        self.created = int(time.time())
        self.weight_bytes = 0  # until it is loaded
        self._state = ModelState.LOCATING
        self._doing = "looking for the model's files"
        self._fraction = 0.0
        self._offered = offered
        self._config = config
        self._store = store
        self._thread = thread
        self._memory = memory
        self._prefixes = prefixes
        self._blas = blas
        self._metrics = metrics.for_model(model_id)
        self._failure_at_first: GatewayError | None = None  # before there is an engine
        self._engine: Engine | Embedder | None = None
        self._serving: TextModel | EncoderModel | None = None
        self._folder: Path | None = None
        self._fingerprint = b""
        self._ready_since = 0.0
        self._restart_wait = 0.0
        self._reloading: asyncio.Task[None] | None = None
        self._decided = asyncio.Event()  # requests can be understood, or never will be
        self._settled = asyncio.Event()  # the weights are in memory, or never will be

    @property
    def failure(self) -> GatewayError | None:
        """Why the model cannot serve, if it cannot."""
        return self._engine.failure if self._engine else self._failure_at_first

    @property
    def state(self) -> ModelState:
        return ModelState.FAILED if self.failure else self._state

    @property
    def doing(self) -> str:
        """What is still happening, or what went wrong, in words."""
        return str(self.failure) if self.failure else self._doing

    @property
    def fraction(self) -> float:
        """How far `doing` is, 0 to 1."""
        return self._fraction

    @property
    def context_tokens(self) -> int | None:
        """None until the model's configuration was read."""
        return self._serving.context_tokens if self._serving else None

    @property
    def text(self) -> TextModel | None:
        """The model if it generates text and requests can be understood by now."""
        return self._serving if isinstance(self._serving, TextModel) else None

    @property
    def architecture(self) -> str:
        """What the model's config calls its type; empty until that was read."""
        return self._serving.architecture if self._serving else ""

    @property
    def purpose(self) -> Purpose | None:
        """None until the model's configuration was read."""
        return self._serving.purpose if self._serving else None

    @property
    def dimensions(self) -> int | None:
        """Of its embeddings, if it has any."""
        encoder = self._serving if isinstance(self._serving, EncoderModel) else None
        return encoder.config.dimensions if encoder and encoder.purpose is Purpose.EMBEDDINGS else None

    async def serving(self) -> TextModel | EncoderModel:
        """Waits until requests can be understood and queued. Raises why the model cannot serve."""
        await self._decided.wait()
        if self.failure:
            raise self.failure.with_traceback(None)  # shared by many requests: keep none of their frames
        self.load_again()
        assert self._serving is not None
        return self._serving

    async def ready(self) -> None:
        """Waits until the weights are in memory, and has them loaded if need be. Raises why the model cannot serve."""
        await self.serving()
        await self._settled.wait()
        if self.failure:
            raise self.failure.with_traceback(None)

    def load_again(self) -> None:
        """Begins to load a model that was evicted; nothing happens to any other."""
        if self._state is ModelState.ON_DISK:
            self._reloading = asyncio.create_task(self._reload(self._begin_load(), time.perf_counter()))

    async def evict(self) -> None:
        """Gives up the model's memory until it is asked for again. Raises `ModelBusy` if that cannot be now."""
        engine = self._engine
        if engine is None or engine.failure or self._state is not ModelState.READY or engine.busy:
            serves = self.state is ModelState.READY
            raise ModelBusy(self.model_id, "it serves requests" if serves else f"it is {self.state.value}")
        self._state, self._doing, self._fraction = ModelState.ON_DISK, "evicted", 0.0
        self._metrics.weight_bytes.set(0)
        await engine.unload(self.load_again)
        log.info("%s was evicted", self.model_id)

    async def _reload(self, loading: Awaitable[EngineReady | EncoderReady], started: float) -> None:
        """What fails is told to those who wait for the model; whoever asks next has it tried again."""
        engine = self._engine
        assert engine
        try:
            await self._loaded(loading, started)
        except ShuttingDown as error:
            self._fail(error)
        except Exception as error:
            log.exception("%s could not be loaded again", self.model_id)
            engine.fail(ModelUnavailable(f"{self.model_id} could not be loaded again: {error}"))
            engine.recover()
            engine.unloaded(self.load_again)
            self._state, self._doing, self._fraction = ModelState.ON_DISK, f"could not be loaded again: {error}", 0.0

    async def run(self) -> None:
        """Loads the model, and again when its engine breaks down. A task; failures end up in `failure` and the log."""
        try:
            engine = await self._load()
            while self._config.engine.restart:
                await engine.broke_down()
                await self._restart(engine)
        except GatewayError as error:
            self._fail(error)
            log.error("%s cannot be served: %s", self.model_id, error)
        except Exception as error:
            self._fail(ModelUnavailable(f"{self.model_id} could not be loaded: {error}"))
            log.exception("%s could not be loaded", self.model_id)

    async def _restart(self, engine: Engine | Embedder) -> None:
        """Builds the engine anew, until that works. What breaks down soon again waits twice as long each time."""
        if time.monotonic() - self._ready_since > CALM_SECONDS:
            self._restart_wait = 0.0
        while self.failure:
            log.warning("%s: the engine broke down; it is built again in %.0f s", self.model_id, self._restart_wait)
            await asyncio.sleep(self._restart_wait)
            self._restart_wait = min(MOST_WAIT_SECONDS, 2 * self._restart_wait or FIRST_WAIT_SECONDS)
            self._metrics.restarts.inc()
            self._state = ModelState.LOADING
            engine.recover()
            try:
                await self._loaded(self._begin_load(), time.perf_counter())
            except Exception as error:
                log.exception("%s could not be loaded again", self.model_id)
                self._fail(ModelUnavailable(f"{self.model_id} could not be loaded again: {error}"))

    def shut_down(self, error: GatewayError) -> None:
        """Ends every request of this model with `error`."""
        if self._reloading:
            self._reloading.cancel()
        self._fail(error)

    async def _load(self) -> Engine | Embedder:
        started = time.perf_counter()
        self._folder, encoder = await self._locate()
        self._state, self._doing, self._fraction = ModelState.LOADING, "reading the tokenizer", 0.0
        serving = await (self._text_model(self._folder) if encoder is None else self._encoder(self._folder, encoder))
        self._serving, self._engine = serving, serving.engine
        self._decided.set()
        await self._loaded(self._begin_load(), started)
        return self._engine

    async def _text_model(self, folder: Path) -> TextModel:
        side = await asyncio.wrap_future(self._thread.run(lambda: _load_text_side(folder)))
        return TextModel(
            side.tokenizer,
            self._fingerprint,
            side.template,
            side.vocabulary,
            side.longest_token_bytes,
            self._allowed_context(side.context_tokens),
            side.end_tokens,
            GrammarCompiler(side.tokenizer, side.vocabulary, side.end_tokens),
            Engine(self.model_id, self._thread, self._memory, self._prefixes, self._config.engine, self._metrics),
            self._metrics,
            side.architecture,
            side.quantization_bits,
        )

    async def _encoder(self, folder: Path, config: EncoderConfig) -> EncoderModel:
        return EncoderModel(
            await in_background(lambda: EncoderTokenizer(folder, config), "encoder-tokenizer"),
            config,
            self._allowed_context(config.context_tokens),
            Embedder(self.model_id, self._thread, self._memory, self._config.engine),
            self._metrics,
        )

    def _begin_load(self) -> Awaitable[EngineReady | EncoderReady]:
        """Requests may be submitted from this call on."""
        assert self._serving
        assert self._folder
        self._state, self._doing, self._fraction = ModelState.LOADING, "loading the weights", 0.0
        self._settled.clear()
        hardware, blas, tell = self._config.hardware, self._blas, self._set_fraction
        match self._serving:
            case TextModel(engine=engine):
                return engine.load(self._folder, self._fingerprint, hardware, blas, tell)
            case EncoderModel(engine=embedder, config=config, context_tokens=context_tokens):
                return embedder.load(self._folder, config, context_tokens, hardware, blas, tell)

    async def _loaded(self, loading: Awaitable[EngineReady | EncoderReady], started: float) -> None:
        assert self._serving
        ready = await loading
        does = f"KV cache: {ready.caches}" if isinstance(ready, EngineReady) else f"for {self._serving.purpose}"
        self._state, self._doing, self._ready_since = ModelState.READY, "ready", time.monotonic()
        seconds = time.perf_counter() - started
        self._metrics.load_seconds.set(seconds)
        self._metrics.weight_bytes.set(ready.weight_bytes)
        self.weight_bytes = ready.weight_bytes
        self._settled.set()
        log.info(
            "%s is ready after %.1f s on %s, %.0f MB, context %d tokens, %s",
            self.model_id,
            seconds,
            ready.backend,
            ready.weight_bytes / 1e6,
            self._serving.context_tokens,
            does,
        )

    async def _locate(self) -> tuple[Path, EncoderConfig | None]:
        """The model's folder, and what kind of encoder it holds if it does."""
        loop = asyncio.get_running_loop()

        def report(fraction: float, doing: str) -> None:
            loop.call_soon_threadsafe(self._progress, fraction, doing)

        source = self._offered.source

        def locate() -> tuple[StoredModel, bytes, EncoderConfig | None]:
            found = self._store.locate(source, report)
            return found, fingerprint(found.folder, found.manifest), read_encoder_config(found.folder)

        stored, self._fingerprint, encoder = await in_background(locate, "model-store")
        log.info("%s: %s", self.model_id, stored.origin)
        return stored.folder, encoder

    def _allowed_context(self, of_model: int) -> int:
        return min(of_model, self._offered.context_tokens or of_model)

    def _progress(self, fraction: float, doing: str) -> None:
        """Logs each new step, and every tenth of a long one."""
        step, earlier_step = doing.partition(",")[0], self._doing.partition(",")[0]
        if step != earlier_step or int(10 * fraction) > int(10 * self._fraction):
            log.info("%s: %s (%.0f %%)", self.model_id, doing, 100 * fraction)
        self._fraction, self._doing = fraction, doing

    def _set_fraction(self, fraction: float) -> None:
        self._fraction = fraction

    def _fail(self, error: GatewayError) -> None:
        if self._engine:
            self._engine.fail(error)
        else:
            self._failure_at_first = error
        self._decided.set()
        self._settled.set()


def _load_text_side(folder: Path) -> "TextSide":
    from gateway.engine.model_loader import load_text_side

    return load_text_side(folder)
