"""One encoder as the event loop sees it: give it texts in tokens, get vectors."""

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gateway.config import EngineConfig, HardwareConfig
from gateway.engine.encoders.encoder_config import EncoderConfig
from gateway.engine.encoders.tokenizer import EncoderInput
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.engine.sliced_work import Slices
from gateway.engine.worker_slot import WorkerSlot
from gateway.errors import GatewayError, Overloaded, ShuttingDown
from gateway.hardware.blas import Blas

if TYPE_CHECKING:  # it imports mlx, which only the MLX thread may do at run time
    from gateway.engine.encoders.encoder_loop import EncoderLoop, EncoderReport


@dataclass(frozen=True, slots=True)
class EncoderReady:
    """What a load reports: the backend in words, and the weights' bytes in memory."""

    backend: str
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class _Outstanding:
    vectors: "asyncio.Future[NDArray[np.float32]]"
    tokens: int


class Embedder:
    """Belongs to the event loop. Texts may be given while the model loads: the worker takes them when it is there."""

    def __init__(self, model_id: str, thread: MlxThread, memory: ProcessMemory, config: EngineConfig) -> None:
        self._model_id = model_id
        self._slot: WorkerSlot[EncoderLoop] = WorkerSlot(thread)
        self._memory = memory
        self._most_requests = config.max_running + config.max_waiting
        self._event_loop = asyncio.get_running_loop()
        self._tickets = itertools.count(1)
        self._outstanding: dict[int, _Outstanding] = {}
        self._seconds_per_token = 0.0
        self._failure: GatewayError | None = None
        self._broken = asyncio.Event()

    @property
    def failure(self) -> GatewayError | None:
        """Why this engine takes no requests, if it does not."""
        return self._failure

    def load(
        self,
        folder: Path,
        config: EncoderConfig,
        context_tokens: int,
        hardware: HardwareConfig,
        blas: Blas,
        progress: Callable[[float], None],
    ) -> Awaitable[EncoderReady]:
        """Loads the weights on the MLX thread, between other models' steps, and starts to compute for whoever waits.
        Texts that are given from this call on are computed.

        Texts have at most `context_tokens`. `progress` is called on the event loop with a fraction. Cancel whoever
        awaits the load to end it. Raises what loading raised; `load` may be called again.
        """

        def report(report: "EncoderReport") -> None:
            self._event_loop.call_soon_threadsafe(self._deliver, report)

        def slices() -> "Slices[tuple[EncoderLoop, EncoderReady]]":
            from gateway.engine.encoders.encoder_loading import load_encoder_loop
            from gateway.hardware.backend import detect_backend

            backend, ledger = detect_backend(hardware, blas), self._memory.ledger()
            loop = yield from load_encoder_loop(
                self._model_id, folder, config, context_tokens, backend.dtype, ledger, report
            )
            return loop, EncoderReady(str(backend), loop.weight_bytes)

        return self._slot.load(slices(), progress)

    async def cancel_load(self) -> None:
        """Ends a load that is under way: whoever awaits it gets `LoadCancelled`. Then its memory is free."""
        await self._slot.cancel_load()

    async def unload(self) -> None:
        """Gives up the weights. No texts may be outstanding, and none be given before `load` was called again."""

        await self._slot.unload(lambda worker: worker.release())

    async def encode(self, texts: Sequence[EncoderInput]) -> NDArray[np.float32]:
        """(texts, dimensions), or (texts, 1) of a cross-encoder. Cancel it and the rest is not computed.

        Raises `Overloaded` when too many wait, or why the engine cannot.
        """
        if self._failure:
            raise self._failure.with_traceback(None)  # shared by many requests: keep none of their frames
        if len(self._outstanding) >= self._most_requests:
            raise Overloaded(len(self._outstanding), self._most_requests, self._retry_after_seconds())
        ticket = next(self._tickets)
        vectors = self._event_loop.create_future()
        self._outstanding[ticket] = _Outstanding(vectors, sum(len(text.ids) for text in texts))
        self._slot.ask(lambda worker: worker.submit(ticket, texts))
        try:
            result: NDArray[np.float32] = await vectors
            return result
        finally:
            if self._outstanding.pop(ticket, None):
                self._slot.ask(lambda worker: worker.cancel(ticket))

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
            self._settle(ticket, error)

    def _deliver(self, report: "EncoderReport") -> None:
        if report.closed:
            self.fail(report.closed)
            self._slot.closed()
            if not isinstance(report.closed, ShuttingDown):
                self._broken.set()
        elif report.outcome is not None:
            self._seconds_per_token = report.seconds_per_token
            self._settle(report.ticket, report.outcome)

    def _settle(self, ticket: int, outcome: NDArray[np.float32] | GatewayError) -> None:
        if (outstanding := self._outstanding.pop(ticket, None)) is None or outstanding.vectors.done():
            return
        if isinstance(outcome, GatewayError):
            outstanding.vectors.set_exception(outcome)
        else:
            outstanding.vectors.set_result(outcome)

    def _retry_after_seconds(self) -> int:
        """When those who wait should be served; 1 to 60."""
        tokens = sum(outstanding.tokens for outstanding in self._outstanding.values())
        return max(1, min(60, math.ceil(tokens * self._seconds_per_token)))
