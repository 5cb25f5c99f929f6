"""One model on its way into memory and in it. Belongs to the event loop."""

import asyncio
import logging
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.config import Config
from gateway.engine.constraint import GrammarCompiler
from gateway.engine.engine import Engine
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.errors import GatewayError, ModelUnavailable
from gateway.hardware.blas import Blas
from gateway.model_pool.background import in_background
from gateway.model_store.fingerprint import fingerprint
from gateway.model_store.store import ModelStore, StoredModel
from gateway.observability.metrics import Metrics, ModelMetrics
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
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TextModel:
    """All that is needed to serve a request; its weights may still be on their way.

    `tokenizer` is an mlx-lm `TokenizerWrapper`; token ids are below `vocabulary`. Prompt and answer together
    hold at most `context_tokens`.
    """

    tokenizer: Any
    vocabulary: int
    context_tokens: int
    end_tokens: frozenset[int]
    grammars: GrammarCompiler
    engine: Engine
    metrics: ModelMetrics


class ResidentModel:
    """Loads one model, says how far that is, and gives it to requests as soon as they can be understood."""

    def __init__(
        self,
        model_id: str,
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
        self._state = ModelState.LOCATING
        self._doing = "looking for the model's files"
        self._fraction = 0.0
        self._config = config
        self._store = store
        self._thread = thread
        self._blas = blas
        self._metrics = metrics.for_model(model_id)
        self._engine = Engine(model_id, thread, memory, prefixes, config.engine, self._metrics)
        self._text: TextModel | None = None
        self._folder: Path | None = None
        self._fingerprint = b""
        self._ready_since = 0.0
        self._restart_wait = 0.0
        self._decided = asyncio.Event()  # the text side is there, or nothing will be

    @property
    def failure(self) -> GatewayError | None:
        """Why the model cannot serve, if it cannot."""
        return self._engine.failure

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
        return self._text.context_tokens if self._text else None

    async def text_model(self) -> TextModel:
        """Waits until requests can be understood and queued. Raises why the model cannot serve."""
        await self._decided.wait()
        if self.failure:
            raise self.failure.with_traceback(None)  # shared by many requests: keep none of their frames
        assert self._text is not None
        return self._text

    async def run(self) -> None:
        """Loads the model, and again when its engine breaks down. A task; failures end up in `failure` and the log."""
        try:
            await self._load()
            while self._config.engine.restart:
                await self._engine.broke_down()
                await self._restart()
        except GatewayError as error:
            self._fail(error)
            log.error("%s cannot be served: %s", self.model_id, error)
        except Exception as error:
            self._fail(ModelUnavailable(f"{self.model_id} could not be loaded: {error}"))
            log.exception("%s could not be loaded", self.model_id)

    async def _restart(self) -> None:
        """Builds the engine anew, until that works. What breaks down soon again waits twice as long each time."""
        if time.monotonic() - self._ready_since > CALM_SECONDS:
            self._restart_wait = 0.0
        while self.failure:
            log.warning("%s: the engine broke down; it is built again in %.0f s", self.model_id, self._restart_wait)
            await asyncio.sleep(self._restart_wait)
            self._restart_wait = min(MOST_WAIT_SECONDS, 2 * self._restart_wait or FIRST_WAIT_SECONDS)
            self._metrics.restarts.inc()
            self._state = ModelState.LOADING
            self._engine.recover()
            try:
                await self._load_weights(time.perf_counter())
            except Exception as error:
                log.exception("%s could not be loaded again", self.model_id)
                self._fail(ModelUnavailable(f"{self.model_id} could not be loaded again: {error}"))

    def shut_down(self, error: GatewayError) -> None:
        """Ends every request of this model with `error`."""
        self._fail(error)

    async def _load(self) -> None:
        started = time.perf_counter()
        folder = await self._locate()
        self._state, self._doing, self._fraction = ModelState.LOADING, "reading the tokenizer", 0.0
        side = await asyncio.wrap_future(self._thread.run(lambda: _load_text_side(folder)))
        self._text = TextModel(
            side.tokenizer,
            side.vocabulary,
            self._allowed_context(side.context_tokens),
            side.end_tokens,
            GrammarCompiler(side.tokenizer, side.vocabulary, side.end_tokens),
            self._engine,
            self._metrics,
        )
        self._decided.set()
        self._folder = folder
        await self._load_weights(started)

    async def _load_weights(self, started: float) -> None:
        assert self._text
        assert self._folder
        self._state, self._doing, self._fraction = ModelState.LOADING, "loading the weights", 0.0
        ready = await self._engine.load(
            self._folder, self._fingerprint, self._config.hardware, self._blas, self._set_fraction
        )
        self._state, self._doing, self._ready_since = ModelState.READY, "ready", time.monotonic()
        seconds = time.perf_counter() - started
        self._metrics.load_seconds.set(seconds)
        self._metrics.weight_bytes.set(ready.weight_bytes)
        log.info(
            "%s is ready after %.1f s on %s, %.0f MB, context %d tokens, KV cache: %s",
            self.model_id,
            seconds,
            ready.backend,
            ready.weight_bytes / 1e6,
            self._text.context_tokens,
            ready.caches,
        )

    async def _locate(self) -> Path:
        loop = asyncio.get_running_loop()

        def report(fraction: float, doing: str) -> None:
            loop.call_soon_threadsafe(self._progress, fraction, doing)

        source = self._config.model.source

        def locate() -> tuple[StoredModel, bytes]:
            found = self._store.locate(source, report)
            return found, fingerprint(found.folder, found.manifest)

        stored, self._fingerprint = await in_background(locate, "model-store")
        log.info("%s: %s", self.model_id, stored.origin)
        return stored.folder

    def _allowed_context(self, of_model: int) -> int:
        return min(of_model, self._config.model.context_tokens or of_model)

    def _progress(self, fraction: float, doing: str) -> None:
        """Logs each new step, and every tenth of a long one."""
        step, earlier_step = doing.partition(",")[0], self._doing.partition(",")[0]
        if step != earlier_step or int(10 * fraction) > int(10 * self._fraction):
            log.info("%s: %s (%.0f %%)", self.model_id, doing, 100 * fraction)
        self._fraction, self._doing = fraction, doing

    def _set_fraction(self, fraction: float) -> None:
        self._fraction = fraction

    def _fail(self, error: GatewayError) -> None:
        self._engine.fail(error)
        self._decided.set()


def _load_text_side(folder: Path) -> "TextSide":
    from gateway.engine.model_loader import load_text_side

    return load_text_side(folder)
