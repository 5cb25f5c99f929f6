"""One model's engine as the event loop sees it: submit a prompt, read tokens, cancel."""

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import EngineConfig, HardwareConfig
from gateway.engine.memory_ledger import Admission
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.engine.sliced_work import Slices
from gateway.engine.token_stream import GeneratedToken, Starving, StepReport, TokenRequest, TokenStream
from gateway.engine.worker_slot import WorkerSlot
from gateway.errors import (
    AdapterUnfit,
    GatewayError,
    GenerationFailed,
    MemoryUnderPressure,
    Overloaded,
    ShuttingDown,
)
from gateway.generation.adapter import Adapter
from gateway.hardware.blas import Blas
from gateway.observability.metrics import ModelMetrics
from gateway.prefix_cache.prefix_caches import PrefixCaches

if TYPE_CHECKING:  # it imports mlx, which only the MLX thread may do at run time
    from gateway.engine.generation_loading import Learned
    from gateway.engine.generation_loop import GenerationLoop

log = logging.getLogger(__name__)

FIRST_GUESS_SECONDS = 1.0
"""Between two requests' ends while the batch is full, before that was measured; for `Retry-After`."""


PRESSURE_RETRY_SECONDS = 30
"""Told to long requests while the machine is short of memory."""


@dataclass(frozen=True, slots=True)
class EngineReady:
    """What a load reports: the backend and the caches in words, and the weights' bytes in memory.

    `resumes_at_stops`: some layers cannot be cut back, so a later prompt can go on only from certain places.
    `refused_adapters` says why these do not serve.
    """

    backend: str
    caches: str
    weight_bytes: int
    admission: Admission
    resumes_at_stops: bool
    refused_adapters: dict[str, AdapterUnfit]


@dataclass(slots=True)
class _Outstanding:
    stream: TokenStream
    submitted_at: float


class Engine:
    """Belongs to the event loop; `_learned` alone belongs to the MLX thread.

    Requests may be submitted while the model loads: the worker takes them when it is there. `starving_changed`
    is called when other models leave no request any room, with the bytes that must be free for one; and with 0 when one
    has found room.
    """

    def __init__(
        self,
        model_id: str,
        thread: MlxThread,
        memory: ProcessMemory,
        prefixes: PrefixCaches,
        config: EngineConfig,
        metrics: ModelMetrics,
        trusted: bool = False,
    ) -> None:
        """The code that a `trusted` model brings is executed."""
        self.resumes_at_stops = False
        self.starving_changed: Callable[[int], None] = lambda wanted_bytes: None
        self._starving: Starving | None = None
        self._model_id = model_id
        self._memory = memory
        self._prefixes = prefixes
        self._thread = thread
        self._config = config
        self._metrics = metrics
        self._trusted = trusted
        self._event_loop = asyncio.get_running_loop()
        self._tickets = itertools.count(1)
        self._outstanding: dict[int, _Outstanding] = {}
        self._outstanding_rows = 0
        self._seconds_per_request = FIRST_GUESS_SECONDS
        self._last_end = 0.0
        self._failure: GatewayError | None = None
        self._slot: WorkerSlot[GenerationLoop] = WorkerSlot(thread)
        self._learned: Learned | None = None
        self._admission: Admission | None = None
        self._broken = asyncio.Event()

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
        self,
        folder: Path,
        fingerprint: bytes,
        hardware: HardwareConfig,
        blas: Blas,
        progress: Callable[[float], None],
        adapters: Sequence[Adapter] = (),
    ) -> Awaitable[EngineReady]:
        """Loads the weights on the MLX thread, between other models' steps, and starts generating for whoever waits.
        Requests that are submitted from this call on are served.

        `fingerprint` names what is in the folder: equal ones compute the same. An adapter that does not suit the model
        is refused and its requests fail; the others and the model serve.
        `progress` is called on the event loop with a fraction. Cancel whoever awaits the load to end it. Raises what
        loading raised; `load` may be called again.
        """

        def slices() -> "Slices[tuple[GenerationLoop, EngineReady]]":
            from gateway.engine.generation_loading import GenerationLoading
            from gateway.hardware.backend import detect_backend

            loading = GenerationLoading(
                self._model_id,
                folder,
                fingerprint,
                self._config,
                detect_backend(hardware, blas),
                self._memory.ledger(),
                self._prefixes,
                self._on_event_loop(self._deliver),
                self._learned,
                adapters,
                trusted=self._trusted,
            )
            loop, ready, self._learned = yield from loading.slices()
            return loop, ready

        return self._loaded(self._slot.load(slices(), progress))

    async def _loaded(self, loading: Awaitable[EngineReady]) -> EngineReady:
        ready = await loading
        self._admission = ready.admission
        self.resumes_at_stops = ready.resumes_at_stops
        return ready

    async def cancel_load(self) -> None:
        """Ends a load that is under way: whoever awaits it gets `LoadCancelled`. Then its memory is free."""
        await self._slot.cancel_load()

    async def unload(self) -> None:
        """Gives up the weights, and what memory has of the model's prefixes; those on disk stay.

        No request may be `busy` with it, and none be submitted before `load` was called again.
        """

        def give_up(worker: "GenerationLoop") -> None:
            worker.release()
            self._prefixes.close(self._model_id)

        await self._slot.unload(give_up)

    async def set_aside(self) -> None:
        """As `unload`, with requests that run or wait: they go on when `load` was called again, as if nothing had
        happened. Requests may be submitted meanwhile."""

        def take(worker: "GenerationLoop") -> "Callable[[GenerationLoop], None]":
            tickets = worker.set_aside()
            worker.release()
            self._prefixes.close(self._model_id)
            return lambda next_worker: next_worker.resume(tickets)

        await self._slot.set_aside(take)

    def submit(self, request: TokenRequest) -> TokenStream:
        """Queues a request. Raises `Overloaded` when the queue is full, or why the engine takes none."""
        if self._failure:
            raise self._failure.with_traceback(None)  # shared by many requests: keep none of their frames
        if self._admission:
            self._admission.check(
                len(request.prompt),
                request.reserved_tokens,
                len(request.seeds),
                request.prompt_field,
                request.answer_field,
            )
        tokens, most = len(request.prompt) + request.reserved_tokens, self._memory.most_tokens
        if most and tokens > most:
            raise MemoryUnderPressure(tokens, most, PRESSURE_RETRY_SECONDS)
        rows = len(request.seeds)
        waiting = max(0, self._outstanding_rows - self._config.max_running)
        if self._outstanding_rows + rows > self._config.max_running + self._config.max_waiting:
            raise Overloaded(waiting, self._config.max_waiting, self._retry_after_seconds(waiting))
        ticket = next(self._tickets)
        stream = TokenStream(ticket, rows, self._cancel)
        self._outstanding[ticket] = _Outstanding(stream, self._event_loop.time())
        self._outstanding_rows += rows
        self._slot.ask(lambda worker: worker.submit(ticket, request))
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
        self._slot.forget_set_aside()

    def end_starving(self, error: GatewayError) -> None:
        """Ends the request that finds no room with `error`; nothing happens if there is none by now."""
        if self._starving and (outstanding := self._outstanding.get(self._starving.ticket)):
            self._cancel(self._starving.ticket, None)
            outstanding.stream.fail(error)

    def _cancel(self, ticket: int, choice: int | None) -> None:
        if outstanding := self._outstanding.get(ticket):
            if choice is None or outstanding.stream.complete:
                self._forget(ticket)
            self._slot.ask(lambda worker: worker.cancel(ticket, choice))

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
                outstanding.stream.prompt_begins(reuse)
        for ticket, scores in report.prompt_scores:
            if outstanding := self._outstanding.get(ticket):
                outstanding.stream.prompt_scored(scores)
        for ticket, token in report.tokens:
            self._feed(ticket, token)
        for ticket, error in report.failures:
            if ticket in self._outstanding:
                self._forget(ticket).fail(error)
        if report.starving != self._starving:
            self._starving = report.starving
            self.starving_changed(report.starving.wanted_bytes if report.starving else 0)
        if report.closed:
            self.fail(report.closed)
            self._slot.closed()
            self._thread.post(lambda: self._prefixes.close(self._model_id))
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

    def _forget(self, ticket: int) -> TokenStream:
        outstanding = self._outstanding.pop(ticket)
        now = self._event_loop.time()
        if self._outstanding_rows >= self._config.max_running:  # else nobody waits for this end
            seconds = now - max(self._last_end, outstanding.submitted_at)
            self._seconds_per_request += 0.1 * (seconds - self._seconds_per_request)
        self._last_end = now
        self._outstanding_rows -= outstanding.stream.choices
        return outstanding.stream

    def _retry_after_seconds(self, waiting: int) -> int:
        """When a place in the queue should be free, from how fast requests ended lately; 1 to 60."""
        return max(1, min(60, math.ceil((waiting + 1) * self._seconds_per_request)))
