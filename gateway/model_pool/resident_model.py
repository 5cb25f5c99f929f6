"""One model: its files, what is needed to understand requests, and its weights, which come and go.

Belongs to the event loop. `residency` decides when weights are loaded and evicted.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Literal

import msgspec

from gateway.config import ModelConfig
from gateway.engine.encoders.embedder import EncoderReady
from gateway.engine.engine import EngineReady
from gateway.errors import GatewayError, LoadCancelled, MemoryShort, ModelNotPrepared, ModelUnavailable, ShuttingDown
from gateway.model_pool.model_adapters import ModelAdapters
from gateway.model_pool.model_progress import ModelProgress, ModelState
from gateway.model_pool.preparation import PreparedModel, Workshop, locate, prepare
from gateway.model_pool.retry import Retry
from gateway.model_pool.served_model import EncoderModel, Purpose, TextModel
from gateway.observability.log_line import SUCCESS
from gateway.observability.metrics import Metrics
from gateway.observability.pool_events import PoolEvents

log = logging.getLogger(__name__)

EvictionReason = Literal["operator", "memory", "idle"]


class ResidentModel:
    """Says how far its model is, and gives it to requests as soon as they can be understood.

    `options` may change while it runs. `last_used` and `ready_since` are of the monotonic clock.
    """

    def __init__(
        self,
        model_id: str,
        configured: ModelConfig,
        options: ModelConfig,
        adapters: ModelAdapters,
        workshop: Workshop,
        metrics: Metrics,
        events: PoolEvents,
        changed: Callable[[], None],
    ) -> None:
        """`options` are the `configured` ones, or what an operator made of them. `changed` is called when something has
        that others may have waited for."""
        self.model_id = model_id
        self.created = int(time.time())
        self.options = options
        self.adapters = adapters
        self.weight_bytes = 0  # while it is not loaded
        self.loaded_bytes = 0  # when it was loaded last
        self.load_seconds = 0.0
        self.last_used = 0.0
        self.ready_since = 0.0
        self.when_starving: Callable[[int], None] = lambda wanted_bytes: None  # see `Engine.starving`
        self._waited_for = False
        self.wants_back = False  # it lost its weights by accident
        self._configured = configured
        self._workshop = workshop
        self._metrics = metrics.for_model(model_id)
        self._progress = ModelProgress(model_id, events, self._metrics, changed)
        self._changed = changed
        self._least_bytes = 0  # a load found that it takes so many
        self._failure: GatewayError | None = None
        self._told = ""  # of what failed, in the log
        self._watching: asyncio.Task[None] | None = None
        self._retry = Retry()
        self._prepared: PreparedModel | None = None
        self._decided = asyncio.Event()  # requests can be understood, or cannot for now
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what it is and how far ----------------------------------------------------------------------

    @property
    def failure(self) -> GatewayError | None:
        """Why the model cannot serve, if it cannot."""
        return self._failure

    @property
    def refusal(self) -> GatewayError | None:
        """Why a request would be in vain now: what failed is not to be tried again yet."""
        left = self._retry.seconds_left
        if self._failure is None or not left or left == math.inf:
            return self._failure if left else None
        return ModelNotPrepared(str(self._failure), math.ceil(left))

    @property
    def retry_seconds(self) -> float:
        """Until what failed may be tried again; infinity if it will not be by itself."""
        return self._retry.seconds_left

    @property
    def state(self) -> ModelState:
        """An engine that broke down has failed at once, though it takes a moment until `failure` says so."""
        broken = self._progress.state is ModelState.READY and self.serving is not None and self.serving.engine.failure
        return ModelState.FAILED if broken else self._progress.state

    @property
    def doing(self) -> str:
        """What is still happening, or what went wrong, in words."""
        return str(self._failure) if self._failure else self._progress.doing

    @property
    def fraction(self) -> float:
        """How far `doing` is, 0 to 1."""
        return self._progress.fraction

    @property
    def can_load(self) -> bool:
        """Its files are there and its weights are not, and nothing says to wait."""
        may = self._progress.state is ModelState.ON_DISK or (
            self._progress.state is ModelState.FAILED and not self._retry.seconds_left
        )
        return may and self._prepared is not None

    @property
    def in_memory(self) -> bool:
        return self._progress.state in (ModelState.LOADING, ModelState.READY, ModelState.EVICTING)

    @property
    def needed_bytes(self) -> int:
        """Of memory, for its weights and a request; as it was when it was loaded last, else by the files' headers."""
        if self._prepared is None:
            return self.loaded_bytes
        predicted = self._prepared.size.weight_bytes
        return self._prepared.needed_bytes + max(0, self.loaded_bytes - predicted, self._least_bytes - predicted)

    @property
    def predicted_bytes(self) -> int:
        """Of the weights in memory, by the files' headers; 0 before they were read."""
        return self._prepared.size.weight_bytes if self._prepared else 0

    @property
    def changed_options(self) -> dict[str, Any]:
        """Those that an operator has set, by name."""
        now, configured = msgspec.to_builtins(self.options), msgspec.to_builtins(self._configured)
        return {name: value for name, value in now.items() if value != configured[name]}

    @property
    def context_tokens(self) -> int | None:
        """None until the model's configuration was read."""
        return self.serving.context_tokens if self.serving else None

    @property
    def serving(self) -> TextModel | EncoderModel | None:
        """What requests are understood with; None before they can be."""
        return self._prepared.serving if self._prepared else None

    @property
    def text(self) -> TextModel | None:
        """The model if it generates text and requests can be understood by now."""
        return self.serving if isinstance(self.serving, TextModel) else None

    @property
    def architecture(self) -> str:
        """What the model's config calls its type; empty until that was read."""
        return self.serving.architecture if self.serving else ""

    @property
    def purpose(self) -> Purpose | None:
        """None until the model's configuration was read."""
        return self.serving.purpose if self.serving else None

    @property
    def dimensions(self) -> int | None:
        """Of its embeddings, if it has any."""
        encoder = self.serving if isinstance(self.serving, EncoderModel) else None
        return encoder.config.dimensions if encoder and encoder.purpose is Purpose.EMBEDDINGS else None

    # --- what it does --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to look for the files."""
        self._decided.clear()
        self._failure = None
        self._begin(self._prepare())

    async def understood(self) -> TextModel | EncoderModel:
        """Waits until requests can be understood. Raises why they cannot be; then that is tried again in a while."""
        if self._failure and self._prepared is None and not self._retry.seconds_left:
            self.start()
        while True:
            await self._decided.wait()
            if self.serving is not None:
                return self.serving
            if self._failure is not None:  # else it was begun anew in this moment
                raise self._failure.with_traceback(None)  # shared by many requests: keep none of their frames

    def allow_retry(self) -> None:
        """An operator asks for what has failed."""
        self._retry.allow()
        if self._failure and self._prepared is None:
            self.start()

    def used(self, leases: int, waiting: int) -> None:
        """How many requests hold the model now, and how many wait for it."""
        self._waited_for = bool(waiting)
        self._metrics.pool.leases.set(leases)
        self._metrics.pool.lease_waits.set(waiting)
        self.last_used = time.monotonic()

    def change(self, options: ModelConfig) -> None:
        """Other options, of which the source stays."""
        self.options = options
        if self._prepared:
            self._prepared = self._prepared.limited(options.context_tokens)
        self._changed()

    def configure_anew(self, configured: ModelConfig) -> None:
        """What the file says by now; `change` is told of what that changes."""
        self._configured = configured

    def news(self) -> AsyncIterator[str]:
        """What is still to be done until requests can be understood, each time that changes."""
        return self._progress.news_until(self._decided)

    async def load(self) -> None:
        """Brings the weights into memory. Raises why that cannot be, which then stands in `failure` as well."""
        started = time.perf_counter()
        self._failure = None
        self._progress.enter(ModelState.LOADING, "loading the weights")
        try:
            ready = await self._loading()
        except (ShuttingDown, LoadCancelled, asyncio.CancelledError):
            self._progress.enter(ModelState.ON_DISK, "evicted")
            raise
        except MemoryShort as error:
            self._least_bytes = max(self._least_bytes, error.needed_bytes)
            self._progress.enter(ModelState.ON_DISK, str(error))
            raise
        except Exception as error:
            self._metrics.pool.loads_failed.inc()
            log.warning("%s could not be loaded", self.model_id, exc_info=not isinstance(error, GatewayError))
            self._fail(error)
            raise
        self.weight_bytes = self.loaded_bytes = ready.weight_bytes
        self.load_seconds, self.ready_since = time.perf_counter() - started, time.monotonic()
        self.wants_back = False
        if isinstance(ready, EngineReady):
            self.adapters.refused(ready.refused_adapters)
        self._retry.worked()
        self._metrics.pool.loads.inc()
        self._metrics.pool.load_seconds.set(self.load_seconds)
        self._metrics.pool.weight_bytes.set(ready.weight_bytes)
        assert self.serving
        does = f"KV cache: {ready.caches}" if isinstance(ready, EngineReady) else f"for {self.serving.purpose}"
        log.log(
            SUCCESS,
            "%s is ready after %.1f s on %s, %.0f MB (%.0f MB by the headers), context %d tokens, %s",
            self.model_id,
            self.load_seconds,
            ready.backend,
            ready.weight_bytes / 1e6,
            self.predicted_bytes / 1e6,
            self.serving.context_tokens,
            does,
        )
        self._progress.enter(ModelState.READY, "ready", 1.0)
        self._watching = self._begin(self._watch())

    async def cancel_load(self) -> None:
        """Ends a load that is under way."""
        if self.serving:
            await self.serving.engine.cancel_load()

    def end_starving(self, error: GatewayError) -> None:
        """The request for which there is no memory ends with `error`."""
        if self.text:
            self.text.engine.end_starving(error)

    @property
    def can_set_aside(self) -> bool:
        """Its requests can wait in the middle of their answers; what an encoder computes is over soon."""
        return self.text is not None

    def end_requests(self, error: GatewayError) -> None:
        """Ends those that were set aside and cannot go on."""
        if self.text:
            self.text.engine.fail(error)

    async def evict(self, reason: EvictionReason, *, set_aside: bool = False) -> None:
        """Gives up the memory; its state must be READY. Nobody may use the model, unless its requests are `set_aside`:
        they go on once it is loaded again."""
        assert self.serving
        assert self._watching
        self._watching.cancel()
        self._progress.enter(ModelState.EVICTING, f"evicted: {reason}")
        try:
            if set_aside and self.text:
                await self.text.engine.set_aside()
            else:
                await self.serving.engine.unload()
        except Exception as error:
            log.exception("%s could not be evicted", self.model_id)
            self._fail(error)
            return
        self.weight_bytes = 0
        self._metrics.pool.weight_bytes.set(0)
        self._metrics.pool.evicted(reason)
        log.info("%s was evicted: %s", self.model_id, reason)
        self._progress.enter(ModelState.ON_DISK, f"evicted: {reason}")
        if reason == "operator":
            self._begin(self._look_again())

    async def _look_again(self) -> None:
        """Whether the store has other files for the model by now: another version, say."""
        try:
            located = await locate(self.options, self._workshop, lambda fraction, doing: None)
        except GatewayError as error:
            log.warning("%s stays as it was: %s", self.model_id, error)
            return
        busy = self.text is not None and self.text.engine.busy
        wanted = self.in_memory or self._waited_for or busy  # then by requests that were understood as it was
        if self._prepared and located.fingerprint != self._prepared.fingerprint and not wanted:
            log.info("%s has other files now", self.model_id)
            self.start()

    def shut_down(self, error: GatewayError) -> None:
        """Ends every request of this model with `error`."""
        for task in self._tasks:
            task.cancel()
        self._failure = error
        if self.serving:
            self.serving.engine.fail(error)
        self._decided.set()

    # --- how -----------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        self._progress.enter(ModelState.LOCATING, "looking for the model's files")
        try:
            self._prepared = await prepare(
                self.model_id, self.options, self._workshop, self._metrics, self._progress.located
            )
            self._prepared = self._prepared.limited(self.options.context_tokens)  # which may be another by now
        except Exception as error:
            if str(error) != self._told:
                log.error("%s cannot be served: %s", self.model_id, error, exc_info=not isinstance(error, GatewayError))
            self._told = str(error)
            self._fail(error)
        else:
            log.info("%s: %s", self.model_id, self._prepared.origin)
            if self.text:
                await self.adapters.locate(self._workshop.store)
            else:
                self.adapters.refuse_all("its base generates no text")
            self._progress.enter(ModelState.ON_DISK, "on disk")
        finally:
            self._decided.set()
            self._changed()

    def _loading(self) -> Awaitable[EngineReady | EncoderReady]:
        assert self._prepared
        folder, made_of = self._prepared.folder, self._prepared.fingerprint
        hardware, blas, tell = self._workshop.config.hardware, self._workshop.blas, self._progress.loaded
        match self._prepared.serving:
            case TextModel(engine=engine):
                engine.starving_changed = self.when_starving
                engine.recover()
                return engine.load(folder, made_of, hardware, blas, tell, self.adapters.found)
            case EncoderModel(engine=embedder, config=config, context_tokens=context_tokens):
                embedder.recover()
                return embedder.load(folder, config, context_tokens, hardware, blas, tell)

    async def _watch(self) -> None:
        """An engine that breaks down has ended its requests and lost its weights. It is loaded again."""
        assert self.serving
        engine = self.serving.engine
        await engine.broke_down()
        self.weight_bytes = 0
        self._metrics.pool.weight_bytes.set(0)
        failure = engine.failure or ModelUnavailable(f"{self.model_id}: the engine broke down.")
        if self._workshop.config.engine.restart:
            self.wants_back = True
            self._retry.failed(at_once=True)
            self._metrics.engine.restarts.inc()
            log.warning("%s: the engine broke down; it is built again in %.0f s", self.model_id, self.retry_seconds)
        else:
            self._retry.never()
        self._failure = failure
        self._progress.enter(ModelState.FAILED, str(failure))
        self._begin(self._until_retry())

    async def _until_retry(self) -> None:
        await asyncio.sleep(self._retry.seconds_left)
        if self._prepared is None and self._failure:
            self.start()
        self._changed()

    def _fail(self, error: Exception) -> None:
        self._retry.failed()
        unforeseen = ModelUnavailable(f"{self.model_id} could not be loaded: {error}.")
        self._failure = error if isinstance(error, GatewayError) else unforeseen
        self._progress.enter(ModelState.FAILED, str(error))
        self._begin(self._until_retry())

    def _begin(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
