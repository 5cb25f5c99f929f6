"""One encoder's work: takes requests, puts texts of like length together, reports vectors. Runs on the MLX thread.

The thread steps it in turn with the models that generate, so a step is short: `STEP_SECONDS` by what was measured, or
one text if that takes longer. That is how long a running answer waits beside embeddings.
"""

import heapq
import logging
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.engine.encoders.text_encoder import TextEncoder
from gateway.engine.encoders.tokenizer import EncoderInput
from gateway.engine.memory_ledger import MemoryLedger, weights_owner
from gateway.errors import GatewayError, GenerationFailed, ModelUnavailable, ShuttingDown
from gateway.hardware.memory import read_memory

log = logging.getLogger(__name__)

STEP_SECONDS = 0.05

PATIENCE_SECONDS = 0.2
"""So long others may take the thread between two steps."""

MOST_TOKENS = 8192
"""In one step, padding included: more gain no speed on any backend, and take memory."""

SHORTEST_SHARE = 0.5
"""Texts shorter than this part of the longest are not computed with it: most of their row would be padding."""

LEARNING_RATE = 0.2
"""Of the seconds a token takes, at every step."""

CALIBRATION_TOKENS = 512

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderReport:
    """A ticket's vectors (texts, dimensions), or why there are none; or why no ticket will get any more."""

    ticket: int = 0
    outcome: Vectors | GatewayError | None = None
    seconds_per_token: float = 0.0
    closed: GatewayError | None = None


@dataclass(slots=True)
class _Job:
    """`waiting` are the indices of texts still to be computed, the longest last."""

    ticket: int
    texts: Sequence[EncoderInput]
    waiting: list[int] = field(default_factory=list)
    vectors: dict[int, Vectors] = field(default_factory=dict)

    def length(self, index: int) -> int:
        return len(self.texts[index].ids)

    def longest_up_to(self, length: int, count: int) -> list[int]:
        """At most `count` of the waiting texts, the longest of those that are not longer than `length`."""
        end = bisect_right(self.waiting, length, key=self.length)
        return self.waiting[max(0, end - count) : end]


class EncoderLoop:
    """A `Worker` of the MLX thread. Every ticket is reported once, unless it is cancelled."""

    def __init__(
        self, model: TextEncoder, model_id: str, ledger: MemoryLedger, report: Callable[[EncoderReport], None]
    ) -> None:
        self._model = model
        self._weights = weights_owner(model_id)
        self._passes = f"passes of {model_id}"
        self._ledger = ledger
        self._report = report
        self._jobs: deque[_Job] = deque()
        self._seconds_per_token = 0.0
        self._work_bytes = 0
        self.weight_bytes = model.weight_bytes
        ledger.hold(self._weights, self.weight_bytes, lasting=True)

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    @property
    def patience_seconds(self) -> float | None:
        return PATIENCE_SECONDS if self._jobs else None

    def calibrate(self, context_tokens: int) -> Generator[float, float | None, None]:
        """`Slices`: learns time and memory from a long text; what the longest needs is taken to grow with the square.

        Memory cannot be told from a shorter text, so two slices take as long as one of `CALIBRATION_TOKENS` does.
        """
        tokens = min(context_tokens, CALIBRATION_TOKENS)
        text = EncoderInput([0] * tokens, [0] * tokens, tokens)
        yield 1.0
        self._compute([text])  # the very first pass is slow (kernels are compiled) and says nothing
        self._seconds_per_token = 0.0
        yield 1.0
        self._compute([text])
        self._need(round(self._work_bytes * (context_tokens / tokens) ** 2))

    def submit(self, ticket: int, texts: Sequence[EncoderInput]) -> None:
        job = _Job(ticket, texts)
        job.waiting = sorted(range(len(texts)), key=job.length)
        self._jobs.append(job)

    def cancel(self, ticket: int) -> None:
        self._jobs = deque(job for job in self._jobs if job.ticket != ticket)

    def step(self) -> None:
        if not self._jobs:
            return
        chosen = self._choose()
        try:
            vectors = self._compute([job.texts[index] for job, index in chosen])
        except Exception as error:
            log.exception("texts could not be computed; the engine goes on")
            for ticket in {job.ticket for job, _ in chosen}:
                self.cancel(ticket)
                self._tell(ticket, GenerationFailed(f"The model failed while computing the texts: {error}"))
            return
        for (job, index), vector in zip(chosen, vectors, strict=True):
            job.vectors[index] = vector
        for job in [job for job in self._jobs if not job.waiting]:
            self._jobs.remove(job)
            self._tell(job.ticket, np.stack([job.vectors[index] for index in range(len(job.texts))]))

    def close(self, error: BaseException | None) -> None:
        """Ends every ticket: the server stops (`error` None) or this engine cannot go on."""
        reason: GatewayError = ShuttingDown()
        if error is not None:
            reason = ModelUnavailable(f"The model's engine stopped and cannot go on: {error}")
        self._report(EncoderReport(closed=reason))
        self._jobs.clear()
        self.release()

    def release(self) -> None:
        """The model has gone: its memory is others'."""
        self._ledger.release(self._weights)
        self._ledger.set_work_space(self._passes, 0)

    def _choose(self) -> list[tuple[_Job, int]]:
        """The longest text of whoever's turn it is, and texts of anybody that go well with it."""
        self._jobs.rotate(-1)
        first = self._jobs[-1]
        longest = first.length(first.waiting[-1])
        room = texts_together(longest, self._seconds_per_token)
        fitting = (
            (job.length(index), job is first, order, index)
            for order, job in enumerate(self._jobs)
            for index in job.longest_up_to(longest, room)
            if job.length(index) >= SHORTEST_SHARE * longest
        )
        chosen = [(self._jobs[order], index) for _, _, order, index in heapq.nlargest(room, fitting)]
        for job, index in chosen:
            job.waiting.remove(index)
        return chosen

    def _compute(self, texts: Sequence[EncoderInput]) -> Vectors:
        before = read_memory()  # also begins a new peak
        started = time.perf_counter()
        vectors = self._model.encode(texts)
        seconds = time.perf_counter() - started
        self._need(read_memory().peak_bytes - before.active_bytes)
        per_token = seconds / (len(texts) * max(len(text.ids) for text in texts))
        known = self._seconds_per_token
        self._seconds_per_token = known + LEARNING_RATE * (per_token - known) if known else per_token
        return vectors

    def _need(self, work_bytes: int) -> None:
        self._work_bytes = max(self._work_bytes, work_bytes)
        self._ledger.set_work_space(self._passes, self._work_bytes)

    def _tell(self, ticket: int, outcome: Vectors | GatewayError) -> None:
        self._report(EncoderReport(ticket, outcome, self._seconds_per_token))


def texts_together(longest: int, seconds_per_token: float) -> int:
    """How many texts, padded to `longest` tokens, make one step; at least one."""
    tokens = min(MOST_TOKENS, STEP_SECONDS / seconds_per_token) if seconds_per_token else MOST_TOKENS
    return max(1, int(tokens // longest))
