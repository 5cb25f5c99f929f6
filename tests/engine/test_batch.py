"""Batches of real models, stepped by the test: caches of every kind, drafts, and rows that come and go."""

from collections import defaultdict
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engine.batch import Batch
from gateway.engine.prefill import Prompt
from gateway.engine.prompt_lookup import PromptIndex, PromptLookup
from gateway.engine.row import Row, RowFailure, RowToken
from gateway.engine.sampling import RowSampling
from gateway.generation.request import Sampling
from tests.engine.architectures import MODELS, VOCABULARY, build

CHUNK = 16
GREEDY = Sampling(temperature=0)
HOT = Sampling(temperature=1.0)
MIXED = Sampling(temperature=0.8, top_p=0.9, repetition_penalty=1.2, presence_penalty=0.4, logit_bias={7: 1.0})


class Oracle(PromptLookup):
    """Drafts the tokens that will come, some of them wrong, so that verifications end at every place."""

    def __init__(self, prompt: list[int], answer: list[int]) -> None:
        super().__init__(PromptIndex(prompt))
        self.answer = answer
        self.arrived = 0
        self.verified: list[tuple[int, int]] = []

    @property
    def acceptance(self) -> float:
        return 0.99

    def advance(self, token: int) -> None:
        self.arrived += 1

    def propose(self, limit: int) -> list[int]:
        coming = self.answer[self.arrived : self.arrived + min(limit, 5)]
        wrong = (0, 3, 4, 6)  # of any seven positions
        return [
            (token + 1) % VOCABULARY if place % 7 in wrong else token
            for place, token in enumerate(coming, start=self.arrived)
        ]

    def learn(self, proposed: int, accepted: int) -> None:
        self.verified.append((proposed, accepted))


class Tokens(defaultdict[int, list[int]]):
    """What each row got, by `id` of the row."""

    def __init__(self) -> None:
        super().__init__(list)

    def step(self, batch: Batch) -> None:
        for outcome in batch.decode():
            assert isinstance(outcome, RowToken), outcome
            self[id(outcome.row)].append(outcome.token)
        if batch.cohorts:
            cohort = batch.cohorts[0]
            batch.prefill(cohort, CHUNK)
            batch.join_ready(cohort)

    def run(self, batch: Batch) -> None:
        while batch.decoding.rows or batch.cohorts:
            self.step(batch)


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(1, VOCABULARY, length)]


def row(ids: list[int], max_tokens: int, sampling: Sampling = GREEDY, seed: int = 1, **more: Any) -> Row:
    return Row(list(ids), max_tokens, frozenset(), RowSampling(sampling, seed, ids, None), **more)


def alone(model: Any, ids: list[int], max_tokens: int, sampling: Sampling = GREEDY, seed: int = 1) -> list[int]:
    batch, one, tokens = Batch(model), row(ids, max_tokens, sampling, seed), Tokens()
    batch.join_ready(batch.add([Prompt(1, [one], ids)]))
    tokens.run(batch)
    return tokens[id(one)]


def full_passes(model: Any, ids: list[int], count: int) -> list[int]:
    """Without any cache: a pass over everything for every token."""
    ids = list(ids)
    for _ in range(count):
        ids.append(mx.argmax(model(mx.array([ids]))[0, -1]).item())  # type: ignore[arg-type]
    return ids[-count:]


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    return build(str(request.param), mx.float32)


@pytest.fixture
def llama() -> Any:
    return build("llama", mx.float32)


def test_rows_of_every_architecture_get_the_tokens_of_full_passes(model: Any) -> None:
    """Prompts of many chunks, of one and of a single token; rows join while others decode, and end at other times."""
    batch, tokens = Batch(model), Tokens()
    lengths = {50: 12, 7: 30, 1: 6, 33: 9}
    rows = {length: row(prompt(length), count) for length, count in lengths.items()}
    for length, one in rows.items():
        batch.join_ready(batch.add([Prompt(length, [one], prompt(length))]))
        for _ in range(3):
            tokens.step(batch)
    tokens.run(batch)
    for length, count in lengths.items():
        assert tokens[id(rows[length])] == full_passes(model, prompt(length), count)


def test_prompts_computed_together_are_what_they_are_alone(llama: Any) -> None:
    batch, tokens = Batch(llama), Tokens()
    assert batch.prompts_together
    rows = [row(prompt(length, length), 5) for length in (40, 21, 33, 2)]
    batch.join_ready(batch.add([Prompt(i, [one], list(one.tokens)) for i, one in enumerate(rows)]))
    tokens.run(batch)
    for one, length in zip(rows, (40, 21, 33, 2), strict=True):
        assert tokens[id(one)] == full_passes(llama, prompt(length, length), 5)


def test_choices_share_one_computation_of_their_prompt(model: Any) -> None:
    class Counting:
        def __init__(self) -> None:
            self.tokens = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def __call__(self, inputs: Any, cache: Any) -> Any:
            self.tokens += inputs.size
            return model(inputs, cache=cache)

    counting, ids, tokens = Counting(), prompt(60), Tokens()
    batch = Batch(counting)
    rows = [row(ids, 4, HOT, seed) for seed in range(3)]
    batch.join_ready(batch.add([Prompt(1, rows, ids)]))
    tokens.run(batch)
    assert counting.tokens == 59 + 3 * 4  # the prompt but its last token once, then passes of three rows
    for seed, one in enumerate(rows):
        assert tokens[id(one)] == alone(model, ids, 4, HOT, seed)


@pytest.mark.parametrize("sampling", [GREEDY, HOT, MIXED], ids=["greedy", "hot", "mixed"])
def test_drafts_change_nothing_but_the_number_of_passes(llama: Any, sampling: Sampling) -> None:
    """Right and wrong drafts, beside neighbours with and without; also at temperature 1, and with penalties."""
    expected = {seed: alone(llama, prompt(20, seed), 40, sampling, seed) for seed in range(3)}
    batch, tokens = Batch(llama), Tokens()
    batch.pace.decode_seconds = lambda tokens, context: 1.0  # type: ignore[method-assign]  # drafts always pay
    oracles = {seed: Oracle(prompt(20, seed), expected[seed]) for seed in (0, 1)}
    rows = {seed: row(prompt(20, seed), 40, sampling, seed, lookup=oracles.get(seed)) for seed in range(3)}
    for seed, one in rows.items():
        batch.join_ready(batch.add([Prompt(seed, [one], prompt(20, seed))]))
    tokens.run(batch)
    assert {seed: tokens[id(one)] for seed, one in rows.items()} == expected
    outcomes = {accepted for oracle in oracles.values() for _, accepted in oracle.verified}
    assert {0, 1, 2} <= outcomes
    assert batch.decoding.accepted_tokens == sum(a for o in oracles.values() for _, a in o.verified)


def test_an_end_token_or_the_limit_inside_a_draft_ends_the_row_there(llama: Any) -> None:
    expected = alone(llama, prompt(20), 12)
    end = expected[7]
    first = expected.index(end)
    for end_tokens, count in ((frozenset({end}), first + 1), (frozenset[int](), 12)):
        batch, tokens = Batch(llama), Tokens()
        batch.pace.decode_seconds = lambda tokens, context: 1.0  # type: ignore[method-assign]
        one = row(prompt(20), 12, lookup=Oracle(prompt(20), [*expected, 1, 2, 3]))
        one.end_tokens = end_tokens
        batch.join_ready(batch.add([Prompt(1, [one], prompt(20))]))
        tokens.run(batch)
        assert tokens[id(one)] == expected[:count]


def test_caches_that_cannot_be_rewound_are_never_speculated_on() -> None:
    for name in set(MODELS) - {"llama"}:
        batch, ids = Batch(build(name, mx.float32)), prompt(20)
        one = row(ids, 8, lookup=Oracle(ids, [1] * 20))
        batch.join_ready(batch.add([Prompt(1, [one], ids)]))
        Tokens().run(batch)
        assert not batch.decoding.drafted_tokens


@pytest.mark.parametrize(
    ("poison", "reason"), [(mx.nan, "not a number"), (mx.inf, "not a number"), (-mx.inf, "rules out")]
)
def test_logits_that_are_no_numbers_fail_their_row_alone(llama: Any, poison: float, reason: str) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(llama, name)

        def __call__(self, inputs: Any, cache: Any) -> Any:
            return llama(inputs, cache=cache) + mx.where(inputs[:, :1, None] == 49, poison, 0.0)

    batch = Batch(Broken())
    sound, poisoned = row([5, 6, 7], 3, Sampling(temperature=0, logit_bias={49: -100})), row([5, 6, 49], 3)
    batch.join_ready(batch.add([Prompt(1, [sound], [5, 6, 7]), Prompt(2, [poisoned], [5, 6, 49])]))
    outcomes = []
    while batch.decoding.rows or batch.cohorts:
        outcomes += batch.decode()
        for cohort in list(batch.cohorts):
            batch.prefill(cohort, CHUNK)
            batch.join_ready(cohort)
    (failure,) = [outcome for outcome in outcomes if isinstance(outcome, RowFailure)]
    assert failure.row is poisoned
    assert reason in str(failure.error)
    assert len([outcome for outcome in outcomes if isinstance(outcome, RowToken)]) == 3


def test_what_a_poisoned_row_leaves_behind_harms_nobody(llama: Any) -> None:
    """NaN in its keys and values: the row that moves into its place is shorter than the batch."""
    batch, tokens = Batch(llama), Tokens()
    rows = [row(prompt(60), 12), row(prompt(30, 1), 40), row(prompt(5, 2), 12)]
    for one in rows:
        batch.join_ready(batch.add([Prompt(1, [one], list(one.tokens))]))
    while batch.cohorts:
        batch.prefill(batch.cohorts[0], CHUNK)
        batch.join_ready(batch.cohorts[0])
    for _ in range(3):
        tokens.step(batch)
    caches: Any = batch.decoding.caches
    slot = batch.decoding.rows.index(rows[1])
    for layer in caches.layers:
        for buffer in layer.buffers:
            buffer[slot] = mx.nan
    batch.remove([rows[1]])
    tokens.run(batch)
    for one, seed, length in ((rows[0], 0, 60), (rows[2], 2, 5)):
        assert tokens[id(one)] == full_passes(llama, prompt(length, seed), 12)


def test_buffers_shrink_when_the_long_rows_have_gone(llama: Any) -> None:
    batch, tokens = Batch(llama), Tokens()
    long, short = row(prompt(600), 3), row(prompt(5), 400)
    for one in (long, short):
        batch.join_ready(batch.add([Prompt(1, [one], list(one.tokens))]))
    while long.tokens_left:
        tokens.step(batch)
    tokens.step(batch)
    assert batch.decoding.caches.room == (1, 256)
    batch.remove([short])
    assert batch.decoding.caches.nbytes == 0


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_row_is_the_same_alone_and_in_any_crowd(data: st.DataObject) -> None:
    """Rows join, draft, are removed and end at random, on every kind of cache."""
    name = data.draw(st.sampled_from(list(MODELS)))
    model = build(name, mx.float32)
    batch, tokens = Batch(model), Tokens()
    batch.pace.decode_seconds = lambda tokens, context: 1.0  # type: ignore[method-assign]
    rows: list[tuple[Row, list[int], int, Sampling]] = []
    removed: set[int] = set()
    for seed in range(data.draw(st.integers(2, 6))):
        ids, count = prompt(data.draw(st.integers(1, 40)), seed), data.draw(st.integers(1, 15))
        sampling = data.draw(st.sampled_from([GREEDY, HOT, MIXED]))
        expected = alone(model, ids, count, sampling, seed)
        lookup = Oracle(ids, expected) if data.draw(st.booleans()) else None
        one = row(ids, count, sampling, seed, lookup=lookup)
        rows.append((one, expected, count, sampling))
        batch.join_ready(batch.add([Prompt(seed, [one], ids)]))
        for _ in range(data.draw(st.integers(0, 4))):
            tokens.step(batch)
        if data.draw(st.booleans()):
            gone = data.draw(st.integers(0, seed))
            removed.add(gone)
            batch.remove([rows[gone][0]])
    tokens.run(batch)
    for index, (one, expected, count, _) in enumerate(rows):
        seen = tokens[id(one)]
        assert seen == expected[: len(seen)]
        assert len(seen) == count or index in removed


def test_room_for_a_long_prompt_is_made_before_it_joins(llama: Any) -> None:
    batch, tokens = Batch(llama), Tokens()
    short, long = row(prompt(5), 60), row(prompt(600), 4)
    batch.join_ready(batch.add([Prompt(1, [short], prompt(5))]))
    tokens.step(batch)
    tokens.step(batch)
    cohort = batch.add([Prompt(2, [long], prompt(600))])
    rooms = []
    while cohort.left:
        rooms.append(batch.decoding.caches.nbytes)
        batch.decode()
        batch.prefill(cohort, 64)
    assert len(set(rooms)) > 1  # one of the two layers had grown before the other
    assert batch.decoding.caches.room == (2, 768)
    batch.join_ready(cohort)
    tokens.run(batch)
    assert tokens[id(long)] == full_passes(llama, prompt(600), 4)
