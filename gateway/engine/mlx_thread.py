"""The one thread that touches mlx: it owns every model, cache and array of the process.

Others post commands; between commands the thread steps its workers for as long as any has work. mlx is first
imported by a command, so on this thread and behind the open port: importing it and what it brings takes
seconds.
"""

import logging
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from gateway.engine.sliced_work import SlicedWork, Slices

Result = TypeVar("Result")
Command = Callable[[], None]

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0


class Worker(Protocol):
    """Something the thread steps. `step` and `close` are called on the MLX thread only."""

    @property
    def has_work(self) -> bool: ...

    @property
    def patience_seconds(self) -> float | None:
        """How long others may take the thread between two of its steps; None if that is no matter, as without work."""

    def step(self) -> None:
        """Does a bounded amount of work; raises only if it can never go on."""

    def close(self, error: BaseException | None) -> None:
        """Ends everything it still holds; `error` says why it cannot go on, None at shutdown."""


def do_nothing() -> None:
    pass


class MlxThread:
    """Start it once, `stop` it once. `post` and `run` may be called from any thread."""

    def __init__(self, when_idle: Command = do_nothing, idle_seconds: float = IDLE_SECONDS) -> None:
        """`when_idle` is run on the thread whenever it has had nothing to do for so long since its last step."""
        self._when_idle = when_idle
        self._idle_seconds = idle_seconds
        self._stepped = False  # since `when_idle` was run last
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._sliced = SlicedWork(self._patience_seconds)
        self._workers: list[Worker] = [self._sliced]
        self._stopping = threading.Event()
        self._ended = threading.Event()
        # A daemon, so that a process that dies on an error is not kept alive by it; an orderly end calls `stop`.
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)

    @property
    def stopping(self) -> bool:
        """`stop` was called; a long command may look and give up."""
        return self._stopping.is_set()

    def start(self) -> None:
        self._thread.start()

    def post(self, command: Command) -> None:
        """Runs `command` on the thread, in order, between two steps; what it raises is only logged."""
        self._commands.put(command)

    def run(self, function: Callable[[], Result]) -> Future[Result]:
        """Runs `function` on the thread; the future carries its result or exception."""
        future: Future[Result] = Future()
        if self._ended.is_set():
            future.set_exception(RuntimeError("the MLX thread has ended"))
            return future

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001  (handed to the caller)
                future.set_exception(error)

        self.post(command)
        return future

    def run_sliced(
        self, slices: Slices[Result], progress: Callable[[float], None], begin: Command = do_nothing
    ) -> Future[Result]:
        """Runs `begin` in its turn among the commands, and then `slices` between the steps of the workers.

        Several such works are done one after the other. Cancel the future, at any time, and the rest is not done. It
        also carries the exception. `progress` is called on the thread.
        """
        future: Future[Result] = Future()
        if self._ended.is_set():
            future.set_exception(RuntimeError("the MLX thread has ended"))
            return future

        def command() -> None:
            begin()
            self._sliced.add(slices, future, progress)

        self.post(command)
        return future

    def drop_cancelled(self) -> Future[None]:
        """What was cancelled of sliced works has been given up when the future is done."""
        return self.run(self._sliced.drop_cancelled)

    def add_worker(self, worker: Worker) -> None:
        """Only on the MLX thread."""
        self._workers.append(worker)

    def remove_worker(self, worker: Worker) -> None:
        """Only on the MLX thread; the worker is not closed."""
        self._workers.remove(worker)

    def stop(self) -> None:
        """Closes all workers and ends the thread after its present step. Blocks until it has ended."""
        self._stopping.set()
        self._commands.put(None)
        self._thread.join()

    def _patience_seconds(self) -> float | None:
        """Of the least patient worker."""
        patience = [worker.patience_seconds for worker in self._workers]
        return min((seconds for seconds in patience if seconds is not None), default=None)

    def _run(self) -> None:
        try:
            while self._take_commands():
                self._step_workers()
            for worker in self._workers:
                worker.close(None)
        except BaseException as error:
            # Whatever it is, those who wait must hear of it.
            log.exception("the MLX thread ends")
            for worker in self._workers:
                self._close(worker, error)
            raise
        finally:
            self._ended.set()
            self._workers.clear()
            if "mlx.core" in sys.modules:
                # Without this the process crashed at exit in 13 runs of 20.
                sys.modules["mlx.core"].clear_streams()

    def _take_commands(self) -> bool:
        """Runs what was posted, waiting for something if there is no other work; False when told to stop."""
        wait = not any(worker.has_work for worker in self._workers)
        while True:
            try:
                command = self._next_command() if wait else self._commands.get_nowait()
            except queue.Empty:
                return True
            if command is None:
                return False
            self._run_command(command)
            wait = False

    def _next_command(self) -> Command | None:
        """Waits for it."""
        if self._stepped:
            try:
                return self._commands.get(timeout=self._idle_seconds)
            except queue.Empty:
                self._stepped = False
                self._run_command(self._when_idle)
        return self._commands.get()

    def _run_command(self, command: Command) -> None:
        try:
            command()
        except Exception:
            log.exception("a command failed; the thread goes on")

    def _step_workers(self) -> None:
        """In a frame of its own, so that nothing holds on to a worker (and its model) that has been closed."""
        for worker in list(self._workers):
            self._stepped = self._stepped or worker.has_work
            self._step(worker)

    def _step(self, worker: Worker) -> None:
        try:
            worker.step()
        except Exception as error:
            log.exception("an engine cannot go on and is closed")
            self._workers.remove(worker)
            self._close(worker, error)

    def _close(self, worker: Worker, error: BaseException) -> None:
        try:
            worker.close(error)
        except Exception:
            log.exception("an engine could not be closed")
