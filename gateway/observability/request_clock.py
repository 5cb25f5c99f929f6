"""One request's timings, filed with its model's metrics."""

import time

from gateway.observability.metrics import ModelMetrics


class RequestClock:
    """Measures one admitted request and files it under exactly one end.

    `started` is `time.perf_counter()` when the request came in.
    """

    def __init__(self, metrics: ModelMetrics, started: float) -> None:
        self.tokens = 0
        self._metrics = metrics
        self._started = started
        self._last_arrival: float | None = None
        self._filed = False

    def generated_token(self) -> None:
        self.tokens += 1
        self._metrics.generation_tokens.inc()

    def tokens_arrived(self) -> None:
        now = time.perf_counter()
        if self._last_arrival is None:
            self._metrics.first_token.observe(now - self._started)
            self._metrics.served()
        else:
            self._metrics.token_gap.observe(now - self._last_arrival)
        self._last_arrival = now

    def finished(self) -> None:
        self._filed = True
        self._metrics.duration.observe(time.perf_counter() - self._started)

    def unfinished(self, reason: str) -> None:
        if not self._filed:
            self._filed = True
            self._metrics.request_unfinished(reason)
