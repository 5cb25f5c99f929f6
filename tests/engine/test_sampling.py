"""Sampling against the definitions, written out in numpy for one row at a time."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.generation.request import Sampling

VOCABULARY = 50
PROMPT = [3, 4, 5, 3]


def row(sampling: Sampling, seed: int = 1, top_logprobs: int | None = None) -> Any:
    from gateway.engine.sampling import RowSampling

    return RowSampling(sampling, seed, PROMPT, VOCABULARY, top_logprobs)


def draw(logits: np.ndarray, rows: list[Any], previous: list[int]) -> list[int]:
    """One step for all rows; `previous` are the tokens before it."""
    import mlx.core as mx

    from gateway.engine.sampling import sample

    for one, token in zip(rows, previous, strict=True):
        one.advance(mx.array(token))
    tokens: list[int] = sample(mx.array(logits.astype(np.float32)), rows).tolist()  # type: ignore[assignment]
    return tokens


def allowed_tokens(logits: np.ndarray, sampling: Sampling) -> set[int]:
    """The tokens that min-p, top-k and top-p leave, by their definitions."""
    scaled = logits / sampling.temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    kept = [int(t) for t in order if probabilities[t] >= sampling.min_p * probabilities.max()]
    kept = kept[: sampling.top_k] if sampling.top_k else kept
    total, mass = sum(probabilities[t] for t in kept), 0.0
    nucleus: list[int] = []
    for token in kept:
        if nucleus and mass >= sampling.top_p * total:
            break
        nucleus.append(token)
        mass += probabilities[token]
    return set(nucleus)


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([0.2, 0.7, 0.95, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 20, 1000]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    presence_penalty=st.sampled_from([0.0, -1.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logit_bias=st.sampled_from([{}, {7: 100.0}, {1: -100.0, 2: 3.0}]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(samplings, st.integers(0, 2**63 - 1)), min_size=1, max_size=6), st.integers(0, 1000))
def test_a_row_draws_the_same_token_alone_and_in_a_crowd(drawn: list[tuple[Sampling, int]], logits_seed: int) -> None:
    steps = np.random.default_rng(logits_seed).normal(0, 3, (4, len(drawn), VOCABULARY))
    crowd = [row(sampling, seed) for sampling, seed in drawn]
    together: list[list[int]] = []
    for logits in steps:
        together.append(draw(logits, crowd, together[-1] if together else [PROMPT[-1]] * len(crowd)))
    for index, (sampling, seed) in enumerate(drawn):
        alone = row(sampling, seed)
        token = PROMPT[-1]
        for logits, step in zip(steps, together, strict=True):
            (token,) = draw(logits[index : index + 1], [alone], [token])
            assert token == step[index]


@settings(max_examples=60, deadline=None)
@given(samplings.filter(lambda s: s.temperature > 0), st.integers(0, 1000))
def test_only_tokens_that_the_settings_leave_are_drawn(sampling: Sampling, seed: int) -> None:
    plain = Sampling(sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
    logits = np.random.default_rng(seed).normal(0, 2, VOCABULARY)
    rows = [row(plain, draw_seed) for draw_seed in range(64)]
    tokens = draw(np.tile(logits, (64, 1)), rows, [PROMPT[-1]] * 64)
    assert set(tokens) <= allowed_tokens(logits.astype(np.float32), plain)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.8), Sampling(temperature=0.8, top_k=VOCABULARY)])
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    """Chi-square over 20,000 draws from ten tokens, on the path without and with sorting."""
    count = 20_000
    logits = np.full(VOCABULARY, -1e9)
    logits[:10] = np.linspace(-1, 1, 10)
    tokens = draw(np.tile(logits, (count, 1)), [row(sampling, seed) for seed in range(count)], [0] * count)
    weights = np.exp(logits[:10] / 0.8)
    expected = count * weights / weights.sum()
    observed = Counter(tokens)
    chi_square = sum((observed[token] - expected[token]) ** 2 / expected[token] for token in range(10))
    assert set(tokens) <= set(range(10))
    assert chi_square < 33.7  # 9 degrees of freedom: exceeded by chance once in 10,000


def test_greedy_takes_the_largest_logit_whatever_the_neighbours_do() -> None:
    logits = np.random.default_rng(0).normal(size=(3, VOCABULARY))
    rows = [row(Sampling(temperature=0)), row(Sampling(temperature=1)), row(Sampling(temperature=0, top_p=0.5))]
    tokens = draw(logits, rows, [5, 5, 5])
    assert tokens[0] == logits[0].argmax()
    assert tokens[2] == logits[2].argmax()


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-40])
@pytest.mark.parametrize("top_p", [1.0, 1e-12])
def test_the_smallest_temperatures_are_greedy(temperature: float, top_p: float) -> None:
    logits = np.random.default_rng(3).normal(0, 30, size=(1, VOCABULARY))
    assert draw(logits, [row(Sampling(temperature=temperature, top_p=top_p))], [5]) == [logits[0].argmax()]


def test_penalties_and_bias_follow_their_formulas() -> None:
    import mlx.core as mx

    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0, logit_bias={9: 4.0})
    penalised = row(sampling)
    for previous in (PROMPT[-1], 8, 8, 9):  # the first is the prompt's own last token
        penalised.advance(mx.array(previous))
    logits = np.random.default_rng(1).normal(size=VOCABULARY).astype(np.float32)
    expected = logits.copy()
    expected[9] += 4.0
    for token, times in Counter([8, 8, 9]).items():
        expected[token] -= 0.25 * times + 0.5
    for token in {*PROMPT, 8, 9}:
        expected[token] = expected[token] / 2 if expected[token] > 0 else expected[token] * 2
    np.testing.assert_allclose(np.array(penalised.adjust(mx.array(logits))), expected, rtol=1e-5)


def test_scores_are_the_models_own_log_probabilities() -> None:
    import mlx.core as mx

    from gateway.engine.sampling import read_scores, score

    logits = np.random.default_rng(2).normal(0, 5, VOCABULARY)
    logprobs = logits - np.log(np.exp(logits).sum())
    scores = read_scores(score(mx.array(logits.astype(np.float32)), mx.array(17), 5))
    assert scores.chosen == pytest.approx(logprobs[17], abs=1e-5)
    best = np.argsort(-logprobs)[:5]
    assert [token for token, _ in scores.top] == best.tolist()
    assert [value for _, value in scores.top] == pytest.approx(logprobs[best].tolist(), abs=1e-5)
    assert read_scores(score(mx.array(logits.astype(np.float32)), mx.array(17), 0)).top == ()
