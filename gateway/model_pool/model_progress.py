"""How far a model is, for whoever looks, listens or waits. Belongs to the event loop."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from enum import StrEnum

from gateway.observability.metrics import ModelMetrics
from gateway.observability.pool_events import PoolEvents

NEWS_SECONDS = 1.0
"""How often whoever waits may hear something new."""

LOG_SECONDS = 5.0

log = logging.getLogger(__name__)


class ModelState(StrEnum):
    LOCATING = "locating"  # downloading or importing the files if need be
    ON_DISK = "on disk"  # a request loads it
    LOADING = "loading"
    READY = "ready"
    EVICTING = "evicting"
    FAILED = "failed"


class ModelProgress:
    """`doing` says in words what is happening; `fraction` of it is done (0 to 1)."""

    def __init__(self, model_id: str, events: PoolEvents, metrics: ModelMetrics, changed: Callable[[], None]) -> None:
        """`changed` is called whenever the state has."""
        self.state = ModelState.LOCATING
        self.doing = "looking for the model's files"
        self.fraction = 0.0
        self._model_id = model_id
        self._events = events
        self._metrics = metrics
        self._logged_at = 0.0
        self._changed = changed

    def enter(self, state: ModelState, doing: str, fraction: float = 0.0) -> None:
        self.state, self.doing, self.fraction = state, doing, fraction
        self._metrics.pool.progress.set(fraction)
        self._logged_at = time.monotonic()
        self._events.tell("state", self._model_id, state.value, doing, fraction)
        self._changed()

    def located(self, fraction: float, doing: str) -> None:
        """Logs each new step on the way to the files, and every tenth of a long one."""
        step, earlier_step = doing.partition(",")[0], self.doing.partition(",")[0]
        if step != earlier_step or int(10 * fraction) > int(10 * self.fraction):
            log.info("%s: %s (%.0f %%)", self._model_id, doing, 100 * fraction)
        self._go_on(fraction, doing)

    def loaded(self, fraction: float) -> None:
        """Logs now and then how far a long load is."""
        if time.monotonic() - self._logged_at > LOG_SECONDS:
            self._logged_at = time.monotonic()
            log.info("%s: %s (%.0f %%)", self._model_id, self.doing, 100 * fraction)
        self._go_on(fraction, self.doing)

    async def news_until(self, end: asyncio.Event) -> AsyncIterator[str]:
        """What is happening, each time that changes."""
        last = ""
        while not end.is_set():
            if (now := f"{self.doing}, {100 * self.fraction:.0f} %") != last:
                yield (last := now)
            with suppress(TimeoutError):
                async with asyncio.timeout(NEWS_SECONDS):
                    await end.wait()

    def _go_on(self, fraction: float, doing: str) -> None:
        if doing != self.doing or int(100 * fraction) > int(100 * self.fraction):
            self._events.tell("progress", self._model_id, self.state.value, doing, fraction)
        self.fraction, self.doing = fraction, doing
        self._metrics.pool.progress.set(fraction)
