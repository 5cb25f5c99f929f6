"""One model's engine as the event loop sees it: submit a prompt, read tokens, cancel."""

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import EngineConfig, HardwareConfig
from gateway.engine.memory_ledger import Admission, ModelMemory
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.engine.token_stream import GeneratedToken, StepReport, TokenRequest, TokenStream
from gateway.errors import GatewayError, GenerationFailed, ModelUnavailable, Overloaded, ShuttingDown
from gateway.hardware.blas import Blas
from gateway.observability.metrics import ModelMetrics
from gateway.prefix_cache.extent import DIGEST_BYTES
from gateway.prefix_cache.prefix_caches import PrefixCaches

if TYPE_CHECKING:  # it imports mlx, which only the MLX thread may do at run time
    from gateway.engine.generation_loop import GenerationLoop, LoopLimits
    from gateway.hardware.backend import Backend

log = logging.getLogger(__name__)

FIRST_GUESS_SECONDS = 1.0
"""Between two requests' ends while the batch is full, before that was measured; for `Retry-After`."""


@dataclass(frozen=True, slots=True)
class EngineReady:
    """What a load reports: the backend and the caches in words, and the weights' bytes in memory.

    `resumes_at_stops`: some layers cannot be cut back, so a later prompt can go on only from certain places.
    """

    backend: str
    caches: str
    weight_bytes: int
    admission: Admission
    resumes_at_stops: bool


@dataclass(slots=True)
class _Outstanding:
    stream: TokenStream
    submitted_at: float


class Engine:
    """Belongs to the event loop; `_worker` alone belongs to the MLX thread.

    Requests may be submitted while the model loads: they wait in the thread's command queue.
    """

    def __init__(
        self,
        model_id: str,
        thread: MlxThread,
        memory: ProcessMemory,
        prefixes: PrefixCaches,
        config: EngineConfig,
        metrics: ModelMetrics,
    ) -> None:
        self.resumes_at_stops = False
        self._model_id = model_id
        self._memory = memory
        self._prefixes = prefixes
        self._thread = thread
        self._config = config
        self._metrics = metrics
        self._event_loop = asyncio.get_running_loop()
        self._tickets = itertools.count(1)
        self._outstanding: dict[int, _Outstanding] = {}
        self._outstanding_rows = 0
        self._seconds_per_request = FIRST_GUESS_SECONDS
        self._last_end = 0.0
        self._failure: GatewayError | None = None
        self._worker: GenerationLoop | None = None
        self._admission: Admission | None = None
        self._broken = asyncio.Event()
        self._wanted: Callable[[], None] | None = None  # while there are no weights

    @property
    def failure(self) -> GatewayError | None:
        """Why this engine takes no requests, if it does not."""
        return self._failure

    @property
    def max_choices(self) -> int:
        """The rows one request may have; more could never run together."""
        return self._config.max_running

    @property
    def busy(self) -> bool:
        """Some request has not ended."""
        return bool(self._outstanding)

    def load(
        self, folder: Path, fingerprint: bytes, hardware: HardwareConfig, blas: Blas, progress: Callable[[float], None]
    ) -> Awaitable[EngineReady]:
        """Loads the weights on the MLX thread and starts generating for whoever waits. Requests that are submitted from
        this call on are served.

        `fingerprint` names what is in the folder: equal ones compute the same.
        `progress` is called on the event loop with a fraction. Raises what loading raised; the engine is then
        of no use and `fail` must be called.
        """

        tell_progress = self._on_event_loop(progress)

        def progress_or_stop(fraction: float) -> None:
            if self._thread.stopping:
                raise ShuttingDown
            tell_progress(fraction)

        def on_thread() -> EngineReady:
            from gateway.engine.batch import Batch
            from gateway.engine.cache_factory import CacheFactory
            from gateway.engine.generation_loop import GenerationLoop
            from gateway.engine.kv_layout import KvLayout
            from gateway.engine.model_loader import load_model
            from gateway.hardware.backend import detect_backend

            self._worker = None  # after a breakdown: its model must go before the new one comes
            backend = detect_backend(hardware, blas)
            ledger = self._memory.ledger()
            loaded = load_model(folder, backend.dtype, progress_or_stop)
            limits = self._loop_limits(backend)
            factory = CacheFactory(loaded.model, self._config.kv_bits)
            layout = KvLayout.measure(loaded.model, limits.chunk_tokens, lambda _: factory.model_caches())
            memory = ModelMemory(ledger, self._model_id, layout, loaded.weight_bytes, limits.pass_tokens)
            cache = None
            if needs := factory.needs:
                described = f"{backend.name} {backend.dtype} {layout.describe()} {needs} mlx-lm {version('mlx-lm')}"
                namespace = sha256(fingerprint + described.encode()).digest()[:DIGEST_BYTES]
                cache = self._prefixes.open(self._model_id, namespace, needs, ledger)
            batch = Batch(loaded.model, factory, cache)
            batch.calibrate(limits.chunk_tokens)
            if not memory.admission.fits(prompt_tokens=1, max_tokens=1, choices=1):
                memory.release()
                raise ModelUnavailable(
                    f"The model's weights ({loaded.weight_bytes / 2**20:.0f} MiB) leave no room for a request within "
                    f"the memory budget of {ledger.budget_bytes / 2**20:.0f} MiB. Raise hardware.memory_bytes or "
                    "hardware.memory_fraction, or serve a smaller model."
                )
            deliver = self._on_event_loop(self._deliver)
            self._worker = GenerationLoop(batch, loaded.vocabulary, limits, memory, deliver, cache, self._prefixes.use)
            self._thread.add_worker(self._worker)
            return EngineReady(
                str(backend),
                layout.describe(),
                loaded.weight_bytes,
                memory.admission.with_fixed_work_space(limits.pass_tokens),
                needs is not None and needs.state,
            )

        self._wanted = None
        return self._loaded(asyncio.wrap_future(self._thread.run(on_thread)))

    async def _loaded(self, loading: Awaitable[EngineReady]) -> EngineReady:
        ready = await loading
        self._admission = ready.admission
        self.resumes_at_stops = ready.resumes_at_stops
        return ready

    def unloaded(self, wanted: Callable[[], None]) -> None:
        """There are no weights: the next request calls `wanted`, which must call `load` before it returns."""
        self._wanted = wanted

    async def unload(self, wanted: Callable[[], None]) -> None:
        """Gives up the weights, and what memory has of the model's prefixes; those on disk stay.

        No request may be `busy` with it. `wanted` is called as `unloaded` says.
        """
        self.unloaded(wanted)

        def on_thread() -> None:
            from gateway.hardware.memory import free_unused

            worker, self._worker = self._worker, None
            if worker:
                self._thread.remove_worker(worker)
                worker.release()
            del worker
            self._prefixes.close(self._model_id)
            free_unused()

        await asyncio.wrap_future(self._thread.run(on_thread))

    def submit(self, request: TokenRequest) -> TokenStream:
        """Queues a request. Raises `Overloaded` when the queue is full, or why the engine takes none."""
        if self._failure:
            raise self._failure.with_traceback(None)  # shared by many requests: keep none of their frames
        if self._admission:
            self._admission.check(
                len(request.prompt), request.reserved_tokens, len(request.seeds), request.prompt_field
            )
        rows = len(request.seeds)
        waiting = max(0, self._outstanding_rows - self._config.max_running)
        if self._outstanding_rows + rows > self._config.max_running + self._config.max_waiting:
            raise Overloaded(waiting, self._config.max_waiting, self._retry_after_seconds(waiting))
        if wanted := self._wanted:
            wanted()
        ticket = next(self._tickets)
        stream = TokenStream(ticket, rows, self._cancel)
        self._outstanding[ticket] = _Outstanding(stream, self._event_loop.time())
        self._outstanding_rows += rows
        self._thread.post(lambda: self._worker.submit(ticket, request) if self._worker else None)
        return stream

    async def broke_down(self) -> None:
        """Waits until the engine has closed by itself, because it could not go on."""
        await self._broken.wait()

    def recover(self) -> None:
        """Takes requests again: they wait for the load, which must follow without an `await` in between."""
        self._failure = None
        self._broken.clear()

    def fail(self, error: GatewayError) -> None:
        """Ends every outstanding request with `error` and refuses new ones."""
        self._failure = error
        for ticket in list(self._outstanding):
            self._forget(ticket).fail(error)

    def _cancel(self, ticket: int, choice: int | None) -> None:
        if outstanding := self._outstanding.get(ticket):
            if choice is None or outstanding.stream.complete:
                self._forget(ticket)
            self._thread.post(lambda: self._worker.cancel(ticket, choice) if self._worker else None)

    def _on_event_loop(self, function: Callable[..., None]) -> Callable[..., None]:
        """`function` as the MLX thread may call it: it runs on the event loop, in order."""

        def hand_over(*arguments: object) -> None:
            self._event_loop.call_soon_threadsafe(function, *arguments)

        return hand_over

    def _deliver(self, report: StepReport) -> None:
        """The MLX thread's report of one step, on the event loop. What cannot be delivered keeps nothing else back."""
        try:
            self._metrics.step_done(report.state)
        except Exception:
            log.exception("a step's figures could not be noted")
        for ticket, reuse in report.reused:
            if outstanding := self._outstanding.get(ticket):
                outstanding.stream.reuse = outstanding.stream.reuse or reuse
        for ticket, token in report.tokens:
            self._feed(ticket, token)
        for ticket, error in report.failures:
            if ticket in self._outstanding:
                self._forget(ticket).fail(error)
        if report.closed:
            self.fail(report.closed)
            self._thread.post(self._drop_worker)
            if not isinstance(report.closed, ShuttingDown):
                self._broken.set()

    def _feed(self, ticket: int, token: GeneratedToken) -> None:
        if (outstanding := self._outstanding.get(ticket)) is None:
            return
        stream = outstanding.stream
        try:
            stream.feed(token)
        except Exception:
            log.exception("a token could not be handed to its request, which ends; the engine goes on")
            self._cancel(ticket, None)
            stream.fail(GenerationFailed("The answer could not be delivered; see the server's log."))
            return
        if stream.complete:
            self._forget(ticket)

    def _drop_worker(self) -> None:
        """On the MLX thread: the model's memory goes with it."""
        self._worker = None
        self._prefixes.close(self._model_id)

    def _forget(self, ticket: int) -> TokenStream:
        outstanding = self._outstanding.pop(ticket)
        now = self._event_loop.time()
        if self._outstanding_rows >= self._config.max_running:  # else nobody waits for this end
            seconds = now - max(self._last_end, outstanding.submitted_at)
            self._seconds_per_request += 0.1 * (seconds - self._seconds_per_request)
        self._last_end = now
        self._outstanding_rows -= outstanding.stream.choices
        return outstanding.stream

    def _loop_limits(self, backend: "Backend") -> "LoopLimits":
        from gateway.engine.generation_loop import LoopLimits

        config = self._config
        return LoopLimits(
            max_rows=config.max_running,
            chunk_tokens=config.prefill_chunk_tokens or backend.prefill_chunk_tokens,
            min_chunk_tokens=config.min_chunk_tokens,
            pass_tokens=max(config.prefill_chunk_tokens, backend.prefill_pass_tokens),
            stall_budget=config.stall_budget,
            ageing_seconds=config.ageing_seconds,
            speculation=config.speculation,
        )

    def _retry_after_seconds(self, waiting: int) -> int:
        """When a place in the queue should be free, from how fast requests ended lately; 1 to 60."""
        return max(1, min(60, math.ceil((waiting + 1) * self._seconds_per_request)))
