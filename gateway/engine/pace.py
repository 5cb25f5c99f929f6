"""How long this model's passes take here, learned from every one of them. Runs on the MLX thread."""

from collections import deque
from dataclasses import dataclass
from statistics import median

from gateway.engine.step_cost import StepCost

RECENT_STEPS = 9
"""Of which the median counts: a step on a machine that stalls is not the model's pace."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass of `rows` times `width` tokens (padding included), which follow up to `before` others each."""

    rows: int
    width: int
    before: int

    @property
    def tokens(self) -> int:
        return self.rows * self.width

    @property
    def context(self) -> int:
        return self.before + self.width

    @property
    def attended(self) -> int:
        """Pairs of a token and one that it attends to."""
        return self.tokens * (self.before + (self.width + 1) // 2)


class Pace:
    """Measurements of one model's batch.

    Decode steps are kept apart from prompt chunks: they compute logits, and one linear model fits both badly.
    """

    def __init__(self) -> None:
        self.cost = StepCost()
        self._steps: dict[int, deque[float]] = {}  # recent seconds of decode steps, by their tokens in powers of two

    def chunk_done(self, chunk: Pass, seconds: float) -> None:
        self.cost.observe(chunk.tokens, chunk.attended, seconds)

    def step_done(self, step: Pass, seconds: float) -> None:
        """A decode step with its sampling."""
        self._steps.setdefault(step.tokens.bit_length(), deque(maxlen=RECENT_STEPS)).append(seconds)

    def decode_seconds(self, tokens: int, context: int) -> float:
        """Of a decode step with so many tokens, rows and their drafts together, each of which attends to `context`."""
        size = max((size for size in self._steps if size <= tokens.bit_length()), default=None)
        if size is None:
            return self.cost.seconds(tokens, tokens * context)
        more = 0 if size == tokens.bit_length() else tokens - (1 << size) // 2
        each = self.cost.seconds_per_token + context * self.cost.seconds_per_attended
        return median(self._steps[size]) + more * each
