"""Long work on the MLX thread, such as loading a model, cut into slices between the steps of the models that serve.

The work is a generator. Each `yield` ends a slice, says how far the whole is, and is answered with how long the next
slice may take.
"""

import logging
import traceback
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.errors import GatewayError, ModelUnavailable, ShuttingDown

Result = TypeVar("Result")

log = logging.getLogger(__name__)

Slices = Generator[float, float | None, Result]
"""Yields a fraction; is sent the seconds that the next slice may take, None while nobody else has work."""

UNDISTURBED_SECONDS = 0.25
"""Of a slice while nobody else has work: so long a request that comes meanwhile waits."""


@dataclass(frozen=True, slots=True)
class _Job:
    slices: Slices[Any]
    outcome: "Future[Any]"
    progress: Callable[[float], None]


class SlicedWork:
    """A `Worker` of the MLX thread: one job after the other. A job whose `outcome` is cancelled ends before its next
    slice."""

    def __init__(self, allowed_seconds: Callable[[], float | None]) -> None:
        """`allowed_seconds` says how long the others can wait now; None if none of them has work."""
        self._allowed_seconds = allowed_seconds
        self._jobs: deque[_Job] = deque()

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    @property
    def patience_seconds(self) -> float | None:
        return None

    def add(self, slices: Slices[Result], outcome: "Future[Result]", progress: Callable[[float], None]) -> None:
        """`progress` is told each fraction, on the MLX thread. `slices` must yield before it does anything, so that it
        hears of its end even if its turn never comes."""
        next(slices)
        self._jobs.append(_Job(slices, outcome, progress))

    def step(self) -> None:
        """A slice of the oldest job."""
        self.drop_cancelled()
        if not self._jobs:
            return
        job = self._jobs[0]
        try:
            job.progress(job.slices.send(self._allowed_seconds()))
        except StopIteration as end:
            self._jobs.popleft()
            if job.outcome.set_running_or_notify_cancel():
                job.outcome.set_result(end.value)
        except Exception as error:  # noqa: BLE001  (handed to whoever waits for the job)
            self._jobs.popleft()
            self._fail(job, error)

    def drop_cancelled(self) -> None:
        """Ends the jobs that nobody wants any more, and frees what they held."""
        for job in [job for job in self._jobs if job.outcome.cancelled()]:
            self._jobs.remove(job)
            self._end(job)

    def close(self, error: BaseException | None) -> None:
        reason: GatewayError = ShuttingDown()
        if error is not None:
            reason = ModelUnavailable(f"The work on the model cannot go on: {error}")
        while self._jobs:
            job = self._jobs.popleft()
            self._end(job)
            self._fail(job, reason)

    def _end(self, job: _Job) -> None:
        try:
            job.slices.close()
        except Exception:
            log.exception("what was begun could not be given up in order")

    def _fail(self, job: _Job, error: BaseException) -> None:
        traceback.clear_frames(error.__traceback__)  # whoever keeps the error shall not keep the model
        if job.outcome.set_running_or_notify_cancel():
            job.outcome.set_exception(error)


def at_once(slices: Slices[Result], progress: Callable[[float], None]) -> Result:
    """Does all of it, for a caller who has the thread to itself."""
    try:
        while True:
            progress(next(slices))
    except StopIteration as end:
        result: Result = end.value
        return result
