"""Sampling against the definitions, written out in numpy for one slot at a time."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.generation.request import Sampling

VOCABULARY = 50
LARGE_VOCABULARY = 20_000
"""So large that heads do not hold all of it."""
PROMPT = [3, 4, 5, 3]


def row(sampling: Sampling, seed: int = 1, generated: Sequence[int] = (), top_logprobs: int | None = None) -> Any:
    from gateway.engine.sampling import RowSampling

    made = RowSampling(sampling, seed, PROMPT, top_logprobs)
    for token in generated:
        made.advance(token)
    return made


def slots(rows: Sequence[Any]) -> list[Any]:
    from gateway.engine.sampling import Slot

    return [Slot(each) for each in rows]


def draw_slots(logits: np.ndarray, drawn: Sequence[Any]) -> list[int]:
    """One token for each slot; all must be sure and sound."""
    import mlx.core as mx

    from gateway.engine.sampling import sample

    draw = sample(mx.array(logits.astype(np.float32)), drawn)
    assert draw.unsure is None or not draw.unsure.any().item()
    assert np.isfinite(draw.largest.tolist()).all()
    tokens: list[int] = draw.tokens.tolist()  # type: ignore[assignment]
    return tokens


def draw(logits: np.ndarray, rows: Sequence[Any]) -> list[int]:
    return draw_slots(logits, slots(rows))


def chi_square(tokens: Sequence[int], probabilities: np.ndarray) -> float:
    """Of drawn tokens against the distribution; tokens of no probability must not occur."""
    observed = np.bincount(tokens, minlength=probabilities.size)
    possible = probabilities > 0
    assert not observed[~possible].any()
    expected = len(tokens) * probabilities[possible] / probabilities.sum()
    return float(((observed[possible] - expected) ** 2 / expected).sum())


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
        together.append(draw(logits, crowd))
        for one, token in zip(crowd, together[-1], strict=True):
            one.advance(token)
    for index, (sampling, seed) in enumerate(drawn):
        alone = row(sampling, seed)
        for logits, step in zip(steps, together, strict=True):
            (token,) = draw(logits[index : index + 1], [alone])
            assert token == step[index]
            alone.advance(token)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(samplings, st.lists(st.integers(0, 9), max_size=5)), min_size=1, max_size=3),
    st.integers(0, 1000),
    st.randoms(use_true_random=False),
)
def test_a_draft_counts_as_if_it_had_been_generated(
    drawn: list[tuple[Sampling, list[int]]], logits_seed: int, chance: Any
) -> None:
    """Every prefix of each row's draft is a slot, and the slots lie about in any order."""
    from gateway.engine.sampling import Slot

    generated = [7, 2, 7]
    cases = [(row(s, 5, generated), s, tuple(d[:length])) for s, d in drawn for length in range(len(d) + 1)]
    chance.shuffle(cases)
    logits = np.random.default_rng(logits_seed).normal(0, 3, (len(cases), VOCABULARY))
    tokens = draw_slots(logits, [Slot(one, drafted) for one, _, drafted in cases])
    for index, (_, sampling, drafted) in enumerate(cases):
        assert draw(logits[index : index + 1], [row(sampling, 5, [*generated, *drafted])]) == [tokens[index]]


@settings(max_examples=60, deadline=None)
@given(samplings.filter(lambda s: s.temperature > 0), st.integers(0, 1000))
def test_only_tokens_that_the_settings_leave_are_drawn(sampling: Sampling, seed: int) -> None:
    plain = Sampling(sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
    logits = np.random.default_rng(seed).normal(0, 2, VOCABULARY)
    tokens = draw(np.tile(logits, (64, 1)), [row(plain, draw_seed) for draw_seed in range(64)])
    assert set(tokens) <= allowed_tokens(logits.astype(np.float32), plain)


HEAD_CASES = [
    Sampling(temperature=0.8, top_k=40),
    Sampling(temperature=1.3, top_k=700, min_p=0.01),
    Sampling(temperature=0.7, top_k=20, top_p=0.8),
    Sampling(temperature=1.0, top_p=0.3),
    Sampling(temperature=1.0, top_p=0.4, min_p=0.1),
    Sampling(temperature=1.0, top_p=0.4, top_k=LARGE_VOCABULARY + 7),
]
NUCLEUS_CASES = [
    Sampling(temperature=0.8, top_p=0.5),
    Sampling(temperature=0.8, top_p=0.9),
    Sampling(temperature=1.0, top_p=0.95),
    Sampling(temperature=1.0, top_p=0.9, min_p=0.05),
    Sampling(temperature=1.0, top_p=0.9999999),
]


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 3.0, 6.0])  # from flat to steep
@pytest.mark.parametrize("sampling", HEAD_CASES + NUCLEUS_CASES)
def test_the_short_ways_choose_what_sorting_the_vocabulary_chooses(sampling: Sampling, spread: float) -> None:
    import mlx.core as mx

    from gateway.engine.sampling import sample, sample_exactly

    logits = mx.array(np.random.default_rng(8).normal(0, spread, (6, LARGE_VOCABULARY + 7)).astype(np.float32))
    drawn = slots([row(sampling, seed) for seed in range(6)])
    quick, exact = sample(logits, drawn), np.array(sample_exactly(logits, drawn))
    assert quick.unsure is not None
    sure = ~np.array(quick.unsure)
    np.testing.assert_array_equal(np.array(quick.tokens)[sure], exact[sure])
    if spread >= 3.0:  # as steep as a language model's
        assert sure.all()
    if sampling in HEAD_CASES and spread == 0.0:
        assert not sure.any()  # all tokens tie


def test_a_large_nucleus_is_seldom_undecided() -> None:
    """Nuclei of most of the vocabulary, far beyond the head; of 400 draws at most one in a thousand may fail."""
    import mlx.core as mx

    from gateway.engine.sampling import sample

    logits = mx.array(np.tile(np.random.default_rng(4).normal(size=LARGE_VOCABULARY), (50, 1)).astype(np.float32))
    unsure = 0
    for top_p in (0.5, 0.6, 0.8, 0.95):
        for first in (0, 50):
            rows = [row(Sampling(top_p=top_p), seed) for seed in range(first, first + 50)]
            unsure += int(mx.sum(sample(logits, slots(rows)).unsure).item())  # type: ignore[arg-type]
    assert unsure <= 2


def test_the_size_of_the_head_does_not_matter() -> None:
    """A neighbour with a top-k of hundreds makes the whole group take the larger head."""
    logits = np.random.default_rng(6).normal(0, 3, (2, LARGE_VOCABULARY))
    for seed in range(20):
        small, large = row(Sampling(top_k=30), seed), row(Sampling(top_k=500), seed)
        assert draw(logits, [small, large])[0] == draw(logits[:1], [small])[0]


def test_a_top_k_larger_than_the_head_sorts() -> None:
    logits = np.random.default_rng(6).normal(0, 0.1, LARGE_VOCABULARY)
    tokens = draw(np.tile(logits, (40, 1)), [row(Sampling(top_k=5000), seed) for seed in range(40)])
    ranks = np.argsort(np.argsort(-logits.astype(np.float32)))[tokens]
    assert 3000 < ranks.max() < 5000


def test_tokens_of_equal_logit_stay_or_go_together() -> None:
    """Five tokens tie; a limit that falls among them keeps them all, one above them none."""
    logits = np.full(VOCABULARY, -5.0)
    logits[[3, 9]] = 2.0, 1.5
    logits[[11, 17, 23, 31, 41]] = 1.0
    for sampling, left in (
        (Sampling(top_k=4), {3, 9, 11, 17, 23, 31, 41}),
        (Sampling(top_k=2), {3, 9}),
        (Sampling(top_p=0.6), {3, 9, 11, 17, 23, 31, 41}),  # the first two hold 0.46
        (Sampling(top_p=0.4), {3, 9}),
    ):
        tokens = draw(np.tile(logits, (400, 1)), [row(sampling, seed) for seed in range(400)])
        assert set(tokens) == left


TEN = np.concatenate([np.linspace(-1, 1, 10), np.full(VOCABULARY - 10, -1e9)])
"""Logits of which ten matter."""
DRAWS = 5000
LIMIT_OF_NINE_DEGREES = 33.7
"""Chi-square exceeded by chance once in 10,000."""


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.8), Sampling(temperature=0.8, top_k=VOCABULARY - 1)])
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    """Over seeds, on the path without and with a head."""
    tokens = draw(np.tile(TEN, (DRAWS, 1)), [row(sampling, seed) for seed in range(DRAWS)])
    assert chi_square(tokens, np.exp(TEN / 0.8)) < LIMIT_OF_NINE_DEGREES


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.8), Sampling(temperature=0.8, top_k=VOCABULARY - 1)])
def test_draws_follow_the_distribution_over_positions(sampling: Sampling) -> None:
    """One row's draws, one after another, and independent of the one before."""
    from gateway.engine.sampling import Slot

    one = row(sampling, 77)
    drawn = [Slot(one, (0,) * ahead) for ahead in range(DRAWS)]
    tokens = draw_slots(np.tile(TEN, (DRAWS, 1)), drawn)
    weights = np.exp(TEN / 0.8)
    assert chi_square(tokens, weights) < LIMIT_OF_NINE_DEGREES
    pairs = np.array(tokens[:-1]) * VOCABULARY + tokens[1:]
    assert chi_square(pairs.tolist(), np.outer(weights, weights).ravel()) < 161  # 99 degrees of freedom, likewise


def test_draws_from_a_nucleus_follow_the_distribution() -> None:
    """In a vocabulary larger than the head: of ten tokens, the nucleus of 0.8 holds six."""
    logits = np.full(2000, -1e9)
    logits[100:110] = np.linspace(-1, 1, 10)
    weights = np.exp(logits)
    nucleus = allowed_tokens(logits, Sampling(top_p=0.8))
    assert len(nucleus) == 6
    tokens = [
        token
        for first in range(0, 4000, 500)
        for token in draw(np.tile(logits, (500, 1)), [row(Sampling(top_p=0.8), s) for s in range(first, first + 500)])
    ]
    weights[[token for token in range(2000) if token not in nucleus]] = 0
    assert chi_square(tokens, weights) < 25.8  # 5 degrees of freedom


def test_penalised_draws_follow_the_distribution() -> None:
    """Penalties for a history and a draft, a bias, and as many seeds as draws."""
    from gateway.engine.sampling import Slot

    sampling = Sampling(
        presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.5, logit_bias={9: -1.0, 6: 0.5}
    )
    rows = [row(sampling, seed, [8, 8, 9, 0]) for seed in range(DRAWS)]
    tokens = draw_slots(np.tile(TEN, (DRAWS, 1)), [Slot(each, (8, 1)) for each in rows])
    expected = penalised(TEN, sampling, [8, 8, 9, 0, 8, 1])
    assert chi_square(tokens, np.exp(expected)) < LIMIT_OF_NINE_DEGREES


def test_noise_is_gumbel_noise_for_every_token_of_a_large_vocabulary() -> None:
    """Over flat logits all tokens are as likely; sixteenths of the vocabulary by place, and low bits, are too."""
    vocabulary = 49_152
    tokens = np.array(
        [
            token
            for first in range(0, 1500, 100)
            for token in draw(np.zeros((100, vocabulary)), [row(Sampling(), s) for s in range(first, first + 100)])
        ]
    )
    assert len(set(tokens.tolist())) > 1450  # of 1,500, about 23 meet an earlier one
    for parts in (tokens * 16 // vocabulary, tokens % 16):
        assert chi_square(parts.tolist(), np.ones(16)) < 44.3  # 15 degrees of freedom


def test_greedy_takes_the_largest_logit_whatever_the_neighbours_do() -> None:
    logits = np.random.default_rng(0).normal(size=(3, VOCABULARY))
    rows = [row(Sampling(temperature=0)), row(Sampling(temperature=1)), row(Sampling(temperature=0, top_p=0.5))]
    tokens = draw(logits, rows)
    assert tokens[0] == logits[0].argmax()
    assert tokens[2] == logits[2].argmax()


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-40])
@pytest.mark.parametrize("top_p", [1.0, 1e-12])
def test_the_smallest_temperatures_are_greedy(temperature: float, top_p: float) -> None:
    logits = np.random.default_rng(3).normal(0, 30, size=(1, VOCABULARY))
    assert draw(logits, [row(Sampling(temperature=temperature, top_p=top_p))]) == [logits[0].argmax()]


def penalised(logits: np.ndarray, sampling: Sampling, generated: Sequence[int]) -> np.ndarray:
    """Bias and penalties by their formulas."""
    expected = logits.astype(np.float64)
    for token, bias in sampling.logit_bias.items():
        expected[token] += bias
    for token, times in Counter(generated).items():
        expected[token] -= sampling.frequency_penalty * times + sampling.presence_penalty
    for token in {*PROMPT, *generated}:
        factor = sampling.repetition_penalty
        expected[token] = expected[token] / factor if expected[token] > 0 else expected[token] * factor
    return expected


@given(
    samplings,
    st.lists(st.integers(0, VOCABULARY - 1), max_size=200),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=6),
    st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_penalties_and_bias_follow_their_formulas(
    sampling: Sampling, generated: list[int], drafted: list[int], seed: int
) -> None:
    """Of the row in the middle; its neighbours' differ."""
    import mlx.core as mx

    from gateway.engine.sampling import Slot, adjusted

    logits = np.random.default_rng(seed).normal(0, 3, (3, VOCABULARY)).astype(np.float32)
    other = Sampling(frequency_penalty=0.3, repetition_penalty=1.2)
    drawn = [
        Slot(row(other, generated=drafted)),
        Slot(row(sampling, generated=generated), tuple(drafted)),
        Slot(row(Sampling())),
    ]
    given_logits = mx.array(logits)
    result = np.array(adjusted(given_logits, drawn))
    np.testing.assert_allclose(result[0], penalised(logits[0], other, drafted), rtol=1e-4, atol=1e-5)
    history = [*generated, *drafted]
    np.testing.assert_allclose(result[1], penalised(logits[1], sampling, history), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(result[2], logits[2])
    np.testing.assert_array_equal(np.array(given_logits), logits)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("vocabulary", [VOCABULARY, LARGE_VOCABULARY])
def test_a_row_whose_logits_are_no_numbers_is_broken_and_its_neighbours_are_not(vocabulary: int, value: float) -> None:
    import mlx.core as mx

    from gateway.engine.sampling import sample

    for sampling in (Sampling(temperature=0), Sampling(), Sampling(min_p=0.1), Sampling(presence_penalty=1),
                     *HEAD_CASES, *NUCLEUS_CASES):  # fmt: skip
        logits = np.random.default_rng(1).normal(0, 5, (3, vocabulary)).astype(np.float32)
        logits[1, vocabulary // 3] = value
        draw = sample(mx.array(logits), slots([row(sampling), row(sampling), row(Sampling())]))
        first, broken, last = draw.largest.tolist()  # type: ignore[misc]
        assert np.isfinite([first, last]).all(), sampling
        assert np.isnan(broken) if np.isnan(value) else broken == value, sampling


@pytest.mark.parametrize("vocabulary", [VOCABULARY, LARGE_VOCABULARY + 7])
def test_tokens_ruled_out_by_infinity_are_never_drawn(vocabulary: int) -> None:
    """As a grammar does it; with nothing left the largest logit says so."""
    import mlx.core as mx

    from gateway.engine.sampling import sample

    logits = np.full((3, vocabulary), -np.inf, np.float32)
    logits[0, [5, 17, 40]] = 1.0, 0.5, -20
    logits[1, 33] = -50
    samplings = [Sampling(temperature=0), Sampling(), Sampling(min_p=0.1), *HEAD_CASES, *NUCLEUS_CASES]
    for sampling in samplings:
        draw = sample(mx.array(logits), slots([row(sampling, seed) for seed in range(3)]))
        tokens: list[int] = draw.tokens.tolist()  # type: ignore[assignment]
        assert tokens[0] in (5, 17)
        assert tokens[1] == 33
        assert 0 <= tokens[2] < vocabulary
        assert draw.largest.tolist() == [1.0, -50.0, -np.inf]
        assert draw.unsure is None or not any(draw.unsure.tolist()[:2])  # type: ignore[index]


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
