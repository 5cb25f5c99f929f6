"""Models that are likely to be wanted soon are loaded before anybody asks, if memory is free for them.

Belongs to the event loop. The guess is `preload.likely_next`; it is made when the use of a model begins, and every few
minutes. Nothing is ever evicted for a guess, and whether it came true is counted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from gateway.model_pool.model_progress import ModelState
from gateway.model_pool.preload import likely_next
from gateway.model_pool.preload_score import PreloadScore
from gateway.model_pool.resident_model import ResidentModel
from gateway.model_pool.usage_history import GAP_SECONDS, UsageHistory
from gateway.observability.metrics import Metrics

LOOK_SECONDS = 300.0

LIKELY = 0.5
"""The least probability that a model is loaded for."""

log = logging.getLogger(__name__)


class Preloading:
    """`used` is to be called for every request."""

    def __init__(self, store: Path, metrics: Metrics, wish: Callable[[ResidentModel], None]) -> None:
        """`wish` has a model loaded if there is room without anybody's going."""
        self._history = UsageHistory(store)
        self._score = PreloadScore()
        self._metrics = metrics
        self._wish = wish
        self._wished: dict[str, ResidentModel] = {}  # and not used since
        self._last_use: dict[str, float] = {}
        self._due = asyncio.Event()

    def used(self, model: ResidentModel) -> None:
        now, model_id = time.time(), model.model_id
        self._note_loaded(now)
        self._wished.pop(model_id, None)
        self._score.used(model_id, now)
        self._history.note_use(model_id, now)
        if now - self._last_use.get(model_id, 0.0) > GAP_SECONDS:
            self._due.set()
        self._last_use[model_id] = now
        self._tell()

    async def run(self, models: Callable[[], Sequence[ResidentModel]]) -> None:
        """A task: looks at `models` now and then."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            self.look(models(), datetime.now(UTC).astimezone())

    def look(self, models: Sequence[ResidentModel], now: datetime) -> None:
        """Wishes for those on disk that are likely wanted soon."""
        self._note_loaded(now.timestamp())
        self._score.look(now.timestamp())
        absent = {model.model_id: model for model in models if model.state is ModelState.ON_DISK}
        for model_id in [known for known in self._wished if known in absent]:  # no room, or evicted again
            del self._wished[model_id]
            self._score.evicted(model_id)
        for guess in likely_next(self._history.sessions, now, absent):
            if guess.probability >= LIKELY:
                log.info("%s may be wanted soon: %s", guess.model_id, guess.reason)
                self._wished[guess.model_id] = absent[guess.model_id]
                self._wish(absent[guess.model_id])
        self._tell()

    def save(self) -> None:
        """The server ends."""
        self._history.save()

    def _note_loaded(self, now: float) -> None:
        for model_id, model in self._wished.items():
            if model.state is ModelState.READY:
                self._score.loaded_ahead(model_id, now)

    def _tell(self) -> None:
        self._metrics.pool.preloads(self._score.hits, self._score.misses)
