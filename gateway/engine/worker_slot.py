"""Where an engine has its worker, which may have to be loaded first."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from gateway.engine.mlx_thread import MlxThread, Worker
from gateway.engine.sliced_work import Slices
from gateway.errors import LoadCancelled

log = logging.getLogger(__name__)

Loaded = TypeVar("Loaded", bound=Worker)
Ready = TypeVar("Ready")


class WorkerSlot(Generic[Loaded]):
    """The event loop calls the methods; `worker` belongs to the MLX thread, which does what they ask.

    `worker` is None until it is loaded. What is asked of it from `load` or `set_aside` on it does once it is loaded.
    """

    def __init__(self, thread: MlxThread) -> None:
        self.worker: Loaded | None = None
        self._waiting: list[Callable[[Loaded], None]] | None = None  # while it is loaded
        self._thread = thread
        self._loading: Future[Any] | None = None
        self._set_aside = False  # a load that fails leaves what was asked for the next one

    def ask(self, act: Callable[[Loaded], None]) -> None:
        """`act` is given the worker, in the order of the calls; nothing happens if none is there or on its way."""

        def on_thread() -> None:
            if self.worker is not None:
                act(self.worker)
            elif self._waiting is not None:
                self._waiting.append(act)

        self._thread.post(on_thread)

    def load(self, slices: Slices[tuple[Loaded, Ready]], progress: Callable[[float], None]) -> Awaitable[Ready]:
        """`slices` make the worker, and are run on the MLX thread. What is left of an earlier worker goes first.

        `progress` is told fractions, on the event loop. Cancel whoever awaits it, or call `cancel_load`, to stop it.
        """
        event_loop = asyncio.get_running_loop()

        def tell(fraction: float) -> None:
            event_loop.call_soon_threadsafe(progress, fraction)

        future = self._thread.run_sliced(self._loaded(slices), tell, self._make_way)
        self._loading = future
        return self._outcome(asyncio.wrap_future(future))

    async def cancel_load(self) -> None:
        """Whoever awaits the load gets `LoadCancelled`; its memory is free when this returns. Nothing happens to a load
        that has ended."""
        if self._loading and self._loading.cancel():
            await asyncio.wrap_future(self._thread.drop_cancelled())

    async def _outcome(self, loading: "asyncio.Future[Ready]") -> Ready:
        try:
            return await loading
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise LoadCancelled from None

    async def unload(self, give_up: Callable[[Loaded], None]) -> None:
        """The worker has no more turns and is given to `give_up`; then its memory goes back to the system."""

        def on_thread() -> None:
            worker, self.worker = self.worker, None
            if worker is not None:
                self._thread.remove_worker(worker)
                give_up(worker)
            del worker
            _free()

        await asyncio.wrap_future(self._thread.run(on_thread))

    async def set_aside(self, take: Callable[[Loaded], Callable[[Loaded], None]]) -> None:
        """As `unload`, but what `take` gives back is the first thing that the next worker does."""

        def on_thread() -> None:
            worker, self.worker = self.worker, None
            if worker is not None:
                self._thread.remove_worker(worker)
                self._waiting, self._set_aside = [take(worker)], True
            del worker
            _free()

        await asyncio.wrap_future(self._thread.run(on_thread))

    def forget_set_aside(self) -> None:
        """Nobody waits any more for what was set aside."""

        def on_thread() -> None:
            if self._set_aside:
                self._waiting, self._set_aside = None, False

        self._thread.post(on_thread)

    def closed(self) -> None:
        """The worker has closed by itself: its memory goes with it."""

        def on_thread() -> None:
            self.worker = None

        self._thread.post(on_thread)

    def _make_way(self) -> None:
        self.worker = None
        if not self._set_aside:
            self._waiting = []

    def _loaded(self, slices: Slices[tuple[Loaded, Ready]]) -> Slices[Ready]:
        try:
            yield 0.0
            worker, ready = yield from slices
        except BaseException as error:
            if not self._set_aside:
                self._waiting = None
            traceback.clear_frames(error.__traceback__)
            _free()
            raise
        self.worker = worker
        self._thread.add_worker(worker)
        waiting, self._waiting = self._waiting or [], None
        self._set_aside = False
        for act in waiting:
            self._do(act, worker)
        return ready

    def _do(self, act: Callable[[Loaded], None], worker: Loaded) -> None:
        try:
            act(worker)
        except Exception:
            log.exception("what was asked while a model was loaded failed; the engine goes on")


def _free() -> None:
    from gateway.hardware.memory import free_unused

    free_unused()
