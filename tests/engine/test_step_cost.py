"""The cost model learns from measured passes, and chunks keep the budget."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.step_cost import StepCost, chunk_tokens

PREFILL_MILLISECONDS = {
    0: {16: 78, 32: 114, 64: 195, 128: 387},
    512: {16: 122, 32: 192, 64: 353, 128: 691},
    1024: {16: 160, 32: 277, 64: 491, 128: 987},
    2048: {16: 252, 32: 432, 64: 830, 128: 1612},
    2900: {16: 329, 32: 593, 64: 1168, 128: 2106},
}
"""By context and chunk: SmolLM2-135M in float32 on two cores, one prompt."""

DECODE_MILLISECONDS = {(1, 64): 65, (1, 1024): 72, (1, 2048): 87, (1, 2900): 99, (8, 64): 78, (16, 64): 103}
"""By rows and context, one token each."""

Measured = tuple[int, int, float]


def attended(tokens: int, context: int) -> int:
    return tokens * (context + (tokens + 1) // 2)


CHUNKS: list[Measured] = [
    (tokens, attended(tokens, context), milliseconds / 1000)
    for context, row in PREFILL_MILLISECONDS.items()
    for tokens, milliseconds in row.items()
]
DECODE_STEPS: list[Measured] = [
    (rows, rows * context, milliseconds / 1000) for (rows, context), milliseconds in DECODE_MILLISECONDS.items()
]


def learn(cost: StepCost, passes: Iterable[Measured], count: int, seed: int = 0, slowdown: float = 1.0) -> StepCost:
    """Shows it `count` of the passes in random order, with this machine's usual noise."""
    draw, choices = random.Random(seed), list(passes)
    for _ in range(count):
        tokens, reach, seconds = draw.choice(choices)
        cost.observe(tokens, reach, seconds * slowdown * draw.uniform(0.9, 1.15))
    return cost


def worst_error(cost: StepCost, passes: Iterable[Measured], slowdown: float = 1.0) -> float:
    return max(abs(cost.seconds(tokens, reach) / (seconds * slowdown) - 1) for tokens, reach, seconds in passes)


@pytest.mark.parametrize("seed", range(10))
def test_learns_a_real_models_chunks(seed: int) -> None:
    assert worst_error(learn(StepCost(), CHUNKS, 100, seed), CHUNKS) < 0.2


def test_short_passes_count_as_much_as_long_ones() -> None:
    cost = learn(StepCost(), CHUNKS, 200)
    assert cost.seconds(16, attended(16, 0)) == pytest.approx(0.078, rel=0.2)


def test_the_first_pass_outweighs_the_prior() -> None:
    for factor in (0.1, 1, 100):
        cost = StepCost()
        seconds = cost.seconds(64, 6400) * factor
        cost.observe(64, 6400, seconds)
        assert cost.seconds(64, 6400) == pytest.approx(seconds, rel=0.1)


def test_a_slow_first_pass_is_soon_outweighed() -> None:
    cost = StepCost()
    cost.observe(64, attended(64, 0), 20.0)
    assert worst_error(learn(cost, CHUNKS, 60), CHUNKS) < 0.3


@pytest.mark.parametrize("stall", [10, 1000])
def test_a_stall_of_the_machine_does_not_spoil_it(stall: int) -> None:
    cost = learn(StepCost(), CHUNKS, 200)
    for tokens, reach, _ in CHUNKS:
        before = cost.seconds(tokens, reach)
        cost.observe(tokens, reach, before * stall)
        assert before <= cost.seconds(tokens, reach) < 1.1 * before
        learn(cost, CHUNKS, 20)
    assert worst_error(cost, CHUNKS) < 0.25


def test_lasting_change_is_learned() -> None:
    cost = learn(StepCost(), CHUNKS, 200)
    for slowdown in (3.0, 1.0):
        learn(cost, CHUNKS, 60, slowdown=slowdown)
        ratios = [cost.seconds(tokens, reach) / (seconds * slowdown) for tokens, reach, seconds in CHUNKS]
        assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.25)
        learn(cost, CHUNKS, 240, slowdown=slowdown)
        assert worst_error(cost, CHUNKS, slowdown) < 0.2


def test_an_hour_of_decoding_leaves_the_rest_known_and_learnable() -> None:
    cost = learn(StepCost(), CHUNKS + DECODE_STEPS, 300)
    before = [cost.seconds(tokens, reach) for tokens, reach, _ in CHUNKS]
    for _ in range(20_000):
        cost.observe(1, 64, 0.065)
    after = [cost.seconds(tokens, reach) for tokens, reach, _ in CHUNKS]
    assert after == pytest.approx(before, rel=0.2)

    cost.observe(16, attended(16, 0), 0.078 * 3)  # a different pass, once, and far off
    assert [cost.seconds(tokens, reach) for tokens, reach, _ in CHUNKS] == pytest.approx(after, rel=0.5)
    assert worst_error(learn(cost, CHUNKS, 150), CHUNKS) < 0.2


def test_equal_passes_alone_are_predicted() -> None:
    cost = StepCost()
    for _ in range(1000):
        cost.observe(1, 64, 0.065)
    assert cost.seconds(1, 64) == pytest.approx(0.065, rel=0.01)


def test_costs_are_what_metrics_show() -> None:
    cost = learn(StepCost(), CHUNKS, 200)
    seconds = cost.fixed_seconds + 128 * cost.seconds_per_token + attended(128, 512) * cost.seconds_per_attended
    assert seconds == pytest.approx(cost.seconds(128, attended(128, 512)))
    assert cost.fixed_seconds == pytest.approx(0.043, rel=0.3)
    assert cost.seconds_per_token == pytest.approx(0.0022, rel=0.2)
    assert cost.seconds_per_attended == pytest.approx(4.9e-6, rel=0.2)


def test_a_pass_that_took_no_time_is_ignored() -> None:
    cost = StepCost()
    before = cost.seconds(64, 64)
    cost.observe(64, 64, 0.0)
    cost.observe(64, 64, -1.0)
    assert cost.seconds(64, 64) == before


passes = st.tuples(st.integers(1, 4096), st.integers(0, 32_768), st.floats(1e-4, 100))


@given(st.lists(passes, min_size=1, max_size=60))
def test_whatever_it_sees_a_longer_pass_is_never_cheaper(seen: list[tuple[int, int, float]]) -> None:
    cost = StepCost()
    for tokens, context, seconds in seen:
        cost.observe(tokens, attended(tokens, context), seconds)
        assert min(cost.fixed_seconds, cost.seconds_per_token, cost.seconds_per_attended) >= 0
        assert 0 < cost.seconds(tokens, attended(tokens, context)) < 1e9


@pytest.fixture(scope="module")
def learned() -> StepCost:
    return learn(StepCost(), CHUNKS, 200)


@given(
    rows=st.integers(1, 8),
    context=st.integers(0, 8192),
    remaining=st.integers(1, 4096),
    budget=st.none() | st.floats(0.01, 10),
    fastest=st.integers(1, 512),
    smallest=st.integers(1, 64),
)
def test_chunks_are_the_longest_that_keep_the_budget(
    learned: StepCost, rows: int, context: int, remaining: int, budget: float | None, fastest: int, smallest: int
) -> None:
    chunk = chunk_tokens(learned, rows, context, remaining, budget, fastest, smallest)

    def fits(tokens: int) -> bool:
        return budget is None or learned.seconds(rows * tokens, rows * attended(tokens, context)) <= budget

    least = min(smallest, fastest, remaining)
    assert least <= chunk <= min(fastest, remaining)
    assert fits(chunk) or chunk == least
    if chunk < min(fastest, remaining) and fits(chunk + 1):  # shorter than it might be: then the rest is as long
        assert 0 <= chunk - (remaining - chunk) <= 1 or chunk == smallest


@given(st.integers(1, 4096), st.integers(1, 512))
def test_without_a_budget_the_passes_are_as_few_as_can_be_and_none_is_tiny(prompt: int, fastest: int) -> None:
    chunks, remaining = [], prompt
    while remaining:
        chunks.append(chunk_tokens(StepCost(), 1, prompt - remaining, remaining, None, fastest, 1))
        remaining -= chunks[-1]
    assert len(chunks) == -(-prompt // fastest)
    assert len(chunks) == 1 or min(chunks) >= fastest // 2


def test_chunks_shrink_as_the_context_grows(learned: StepCost) -> None:
    chunks = [chunk_tokens(learned, 1, context, 4096, 0.5, 512, 16) for context in (0, 512, 1024, 2048, 2900)]
    assert chunks == sorted(chunks, reverse=True)
    assert chunks[0] > 4 * chunks[-1]
