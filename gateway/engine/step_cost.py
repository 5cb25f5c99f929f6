"""How long a forward pass takes, learned from the passes themselves, and how long a prompt chunk may be."""

from bisect import bisect_left
from collections.abc import Sequence

UNITS = (1.0, 1e2, 1e5)
"""A pass, tokens computed, tokens attended to: amounts whose costs are of one order of magnitude."""

PRIOR = (0.02, 0.1, 0.02)
"""Seconds for these amounts before anything was seen: a laptop's GPU and a model of a few billion weights."""

PRIOR_SPREAD = 1000.0
"""The prior may be wrong by about this factor, so the first pass outweighs it."""

MEMORY = 0.9
"""What a pass leaves of the evidence of those like it: the last ten count."""


class StepCost:
    """Seconds of one model's passes: fixed + per token computed + per token attended to.

    `tokens` of a pass are rows times length with padding, `attended` is the sum over them of the context each attends
    to. Recursive least squares with three provisions:

    - Errors are relative to the larger of what was measured and what was expected. So short passes count as much as
      long ones, no error exceeds 1, and the longer a stall of the machine, the less it pulls; change that lasts is
      learned within some dozen passes.
    - Old evidence is forgotten only in the direction of the new (Cao and Schwartz, A directional forgetting algorithm
      based on the decomposition of the information matrix, Automatica 36, 2000). An hour of equal passes neither
      erases what was known about others nor makes the next different one change everything (covariance wind-up).
    - No cost is negative, so a longer pass is never expected to be faster.
    """

    def __init__(self) -> None:
        self._costs = list(PRIOR)
        spread = [PRIOR_SPREAD * cost for cost in PRIOR]
        self._information = [[spread[i] ** -2 if i == j else 0.0 for j in range(3)] for i in range(3)]

    @property
    def fixed_seconds(self) -> float:
        return self._costs[0] / UNITS[0]

    @property
    def seconds_per_token(self) -> float:
        return self._costs[1] / UNITS[1]

    @property
    def seconds_per_attended(self) -> float:
        return self._costs[2] / UNITS[2]

    def seconds(self, tokens: int, attended: int) -> float:
        return self.fixed_seconds + self.seconds_per_token * tokens + self.seconds_per_attended * attended

    def observe(self, tokens: int, attended: int, seconds: float) -> None:
        """Learns from a pass that was measured; one that took no time says nothing and is ignored."""
        if seconds <= 0:
            return
        expected = self.seconds(tokens, attended)
        scale = max(seconds, expected)
        seen = (1 / UNITS[0] / scale, tokens / UNITS[1] / scale, attended / UNITS[2] / scale)
        self._take_in(seen)
        self._move(_solve(self._information, seen), (seconds - expected) / scale)
        self._end_negative_costs()

    def _take_in(self, seen: Sequence[float]) -> None:
        """Adds one observation to the information matrix (the inverse of the covariance), forgetting its like."""
        known = [_dot(row, seen) for row in self._information]
        forgotten = (1 - MEMORY) / _dot(known, seen)
        for i, row in enumerate(self._information):
            for j in range(3):
                row[j] += seen[i] * seen[j] - forgotten * known[i] * known[j]

    def _end_negative_costs(self) -> None:
        """Sets a negative cost to zero and lets the others make up for it as the evidence says."""
        for _ in UNITS:
            index = min(range(3), key=self._costs.__getitem__)
            if self._costs[index] >= 0:
                return
            direction = _solve(self._information, [float(i == index) for i in range(3)])
            self._move(direction, -self._costs[index] / direction[index])
            self._costs[index] = 0.0
        self._costs = [max(0.0, cost) for cost in self._costs]

    def _move(self, direction: Sequence[float], distance: float) -> None:
        self._costs = [cost + distance * part for cost, part in zip(self._costs, direction, strict=True)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _cross(left: Sequence[float], right: Sequence[float]) -> list[float]:
    a, b, c = left
    d, e, f = right
    return [b * f - c * e, c * d - a * f, a * e - b * d]


def _solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """x in `matrix` x = `right`, for a 3x3 matrix (Cramer's rule)."""
    first, second, third = matrix
    cofactors = _cross(second, third), _cross(third, first), _cross(first, second)
    determinant = _dot(first, cofactors[0])
    return [_dot(column, right) / determinant for column in zip(*cofactors, strict=True)]


def chunk_tokens(
    cost: StepCost,
    rows: int,
    context: int,
    remaining: int,
    budget_seconds: float | None,
    fastest: int,
    smallest: int,
) -> int:
    """Tokens per row of the next chunk of `rows` prompts with `context` tokens computed and `remaining` to come.

    The longest that is expected to take no more than `budget_seconds`, yet between `smallest` and `fastest` tokens; the
    fastest where nobody decodes meanwhile (no budget). The last two chunks are of about equal length: as few passes,
    and the longer of them a shorter stall than a full chunk with a rest of a few tokens.
    """
    longest = fastest if budget_seconds is None else _longest_within(cost, rows, context, budget_seconds, fastest)
    chunk = min(max(longest, smallest), fastest)
    if remaining <= chunk:
        return remaining
    if remaining < 2 * chunk:
        return min(chunk, max(smallest, (remaining + 1) // 2))
    return chunk


def _longest_within(cost: StepCost, rows: int, context: int, budget_seconds: float, most: int) -> int:
    """The longest chunk of up to `most` tokens that fits the budget; 0 if none does."""

    def too_long(tokens: int) -> bool:
        attended = rows * tokens * (context + (tokens + 1) // 2)
        return cost.seconds(rows * tokens, attended) > budget_seconds

    return bisect_left(range(1, most + 1), True, key=too_long)
