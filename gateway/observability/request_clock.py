"""One request's timings, filed with its model's metrics."""

import time

from gateway.generation.request import Priority
from gateway.observability.metrics import ModelMetrics


class RequestClock:
    """Measures one admitted request and files it under exactly one end.

    `started` is `time.perf_counter()` when the request came in; build the clock when it is in the engine's queue.
    """

    def __init__(self, metrics: ModelMetrics, started: float, priority: Priority, choices: int = 1) -> None:
        self.tokens = 0
        self._metrics = metrics
        self._priority = priority
        self._choices = choices
        self._started = started
        self._queued = time.perf_counter()
        self._first_arrival: float | None = None
        self._last_arrival: float | None = None
        self._filed = False

    def generated_token(self) -> None:
        self.tokens += 1
        self._metrics.requests.generation_tokens.inc()

    def tokens_arrived(self) -> None:
        now = time.perf_counter()
        if self._last_arrival is None:
            self._first_arrival = now
            self._metrics.requests.first_token(now - self._started, self._priority)
            self._metrics.served()
        else:
            step_seconds = self._metrics.decode_seconds
            self._metrics.requests.token_gap(now - self._last_arrival, self._priority, step_seconds)
        self._last_arrival = now

    def finished(self, prompt_tokens: int, began: float | None) -> None:
        """`began` is `time.perf_counter()` when the computation of the prompt began."""
        self._filed = True
        requests = self._metrics.requests
        requests.duration.observe(time.perf_counter() - self._started)
        requests.prompt_size.observe(prompt_tokens)
        requests.answer_size.observe(self.tokens)
        if self._first_arrival is None or self._last_arrival is None:
            return
        if began is not None:
            requests.queue.observe(max(0.0, began - self._queued))
            requests.prefill.observe(max(0.0, self._first_arrival - began))
        decoding = self._last_arrival - self._first_arrival
        requests.decode.observe(decoding)
        if (after_the_first := self.tokens / self._choices - 1) > 0:
            requests.token_seconds.observe(decoding / after_the_first)

    def unfinished(self, reason: str) -> None:
        if not self._filed:
            self._filed = True
            self._metrics.requests.unfinished(reason)
