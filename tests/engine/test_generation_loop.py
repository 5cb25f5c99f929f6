"""The generation loop with a real model and real batches, stepped by the test as the MLX thread would."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engine.token_stream import GeneratedToken, StepReport, TokenRequest
from gateway.errors import GatewayError, GenerationFailed, InvalidRequest, ModelUnavailable, ShuttingDown
from gateway.generation.request import Sampling

PREFILL_CHUNK = 16
MAX_RUNNING = 4
GREEDY = Sampling(temperature=0)


def request(
    prompt: list[int],
    max_tokens: int = 8,
    seeds: tuple[int, ...] = (1,),
    sampling: Sampling = GREEDY,
    end_tokens: frozenset[int] = frozenset(),
    top_logprobs: int | None = None,
) -> TokenRequest:
    return TokenRequest(prompt, max_tokens, sampling, seeds, end_tokens, top_logprobs)


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(20, 40_000, length)]


class FaultyModel:
    """The model, but `fault` (if set) is called with each forward pass's input and may raise."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.fault: Callable[[Any], None] | None = None
        self.forward_tokens = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, inputs: Any, cache: Any) -> Any:
        if self.fault:
            self.fault(inputs)
        self.forward_tokens += inputs.size
        return self._model(inputs, cache=cache)


class Bench:
    """A loop and everything it reported."""

    def __init__(self, loaded: Any) -> None:
        from gateway.engine.batch import Batch
        from gateway.engine.generation_loop import GenerationLoop

        self.model = FaultyModel(loaded.model)
        self.tokens: dict[int, list[GeneratedToken]] = defaultdict(list)
        self.failures: dict[int, GatewayError] = {}
        self.reports: list[StepReport] = []
        self.loop = GenerationLoop(
            lambda: Batch(self.model, MAX_RUNNING, PREFILL_CHUNK), loaded.vocabulary, MAX_RUNNING, self._note
        )

    def _note(self, report: StepReport) -> None:
        self.reports.append(report)
        for ticket, token in report.tokens:
            self.tokens[ticket].append(token)
        for ticket, error in report.failures:
            assert ticket not in self.failures
            self.failures[ticket] = error

    def run(self) -> None:
        while self.loop.has_work:
            self.loop.step()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.loop.step()

    def ids(self, ticket: int, choice: int = 0) -> list[int]:
        return [token.token for token in self.tokens[ticket] if token.choice == choice]


@pytest.fixture
def bench(tiny_model: Any) -> Bench:
    return Bench(tiny_model)


def greedy_alone(loaded: Any, ids: list[int], count: int) -> list[int]:
    """Without any batch: a full forward pass for every token."""
    import mlx.core as mx

    ids = list(ids)
    for _ in range(count):
        ids.append(mx.argmax(loaded.model(mx.array([ids]))[0, -1]).item())  # type: ignore[arg-type]
    return ids[-count:]


def test_greedy_tokens_are_those_of_full_forward_passes(bench: Bench, tiny_model: Any) -> None:
    """With the prompt in many chunks, in one, and of a single token."""
    for ticket, length in enumerate((50, 7, 1)):
        bench.loop.submit(ticket, request(prompt(length), max_tokens=6))
    bench.run()
    for ticket, length in enumerate((50, 7, 1)):
        assert bench.ids(ticket) == greedy_alone(tiny_model, prompt(length), 6)
        assert [token.finish for token in bench.tokens[ticket]] == [None] * 5 + ["length"]


def test_an_end_token_ends_a_row(bench: Bench, tiny_model: Any) -> None:
    expected = greedy_alone(tiny_model, prompt(9), 4)
    bench.loop.submit(1, request(prompt(9), max_tokens=20, end_tokens=frozenset({expected[3]})))
    bench.run()
    assert bench.ids(1) == expected
    assert bench.tokens[1][-1].finish == "stop"


def test_choices_are_rows_with_their_own_seeds(bench: Bench) -> None:
    hot = Sampling(temperature=1.0)
    bench.loop.submit(1, request(prompt(9), seeds=(5, 6, 5), sampling=hot))
    bench.run()
    assert bench.ids(1, choice=0) == bench.ids(1, choice=2) != bench.ids(1, choice=1)


def test_scores_equal_a_direct_forward_pass(bench: Bench, tiny_model: Any) -> None:
    import mlx.core as mx

    bench.loop.submit(1, request(prompt(20), max_tokens=5, top_logprobs=3))
    bench.loop.submit(2, request(prompt(5), max_tokens=5))
    bench.run()
    ids = prompt(20) + bench.ids(1)
    logits = np.array(tiny_model.model(mx.array([ids]))[0], dtype=np.float64)
    logprobs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logprobs -= logits.max(-1, keepdims=True)
    for index, token in enumerate(bench.tokens[1]):
        row = logprobs[19 + index]
        assert token.scores is not None
        assert token.scores.chosen == pytest.approx(row[token.token], abs=1e-4)
        assert [other for other, _ in token.scores.top] == np.argsort(-row)[:3].tolist()
    assert all(token.scores is None for token in bench.tokens[2])


def test_rows_wait_when_the_batch_is_full(bench: Bench) -> None:
    for ticket in range(MAX_RUNNING + 2):
        bench.loop.submit(ticket, request(prompt(5, ticket), max_tokens=3))
    bench.loop.step()
    assert (bench.reports[-1].running, bench.reports[-1].waiting) == (MAX_RUNNING, 2)
    bench.run()
    assert (bench.reports[-1].running, bench.reports[-1].waiting) == (0, 0)
    assert all(len(bench.ids(ticket)) == 3 for ticket in range(MAX_RUNNING + 2))


@pytest.mark.parametrize("steps_before_cancel", [0, 1, 2, 12])
def test_cancel_frees_the_row_at_every_stage(bench: Bench, tiny_model: Any, steps_before_cancel: int) -> None:
    """Waiting, in the first and a later chunk of the prompt, and while decoding; the neighbour is not disturbed."""
    bench.loop.submit(1, request(prompt(100), max_tokens=50))
    bench.loop.submit(2, request(prompt(6), max_tokens=12))
    bench.steps(steps_before_cancel)
    bench.loop.cancel(1)
    seen = len(bench.tokens[1])
    assert (seen > 0) == (steps_before_cancel == 12)
    bench.run()
    assert len(bench.tokens[1]) == seen
    assert bench.ids(2) == greedy_alone(tiny_model, prompt(6), 12)


def test_one_choice_can_be_cancelled(bench: Bench) -> None:
    bench.loop.submit(1, request(prompt(9), seeds=(5, 6), max_tokens=20))
    bench.steps(5)
    bench.loop.cancel(1, 0)
    assert bench.reports[-1].running == 1
    seen = len(bench.ids(1, choice=0))
    bench.run()
    assert (len(bench.ids(1, choice=0)), len(bench.ids(1, choice=1))) == (seen, 20)


def test_cancelling_twice_or_after_the_end_is_harmless(bench: Bench) -> None:
    bench.loop.submit(1, request(prompt(5), max_tokens=2))
    bench.run()
    bench.loop.cancel(1)
    bench.loop.cancel(1)
    bench.loop.cancel(99)
    assert len(bench.ids(1)) == 2


def test_a_cancelled_prefill_computes_no_more(bench: Bench) -> None:
    bench.loop.submit(1, request(prompt(400)))
    bench.steps(2)
    bench.loop.cancel(1)
    computed = bench.model.forward_tokens
    assert computed < 100
    bench.run()
    assert bench.model.forward_tokens == computed


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_a_failing_step_ends_its_rows_and_the_next_requests_are_served(
    bench: Bench, tiny_model: Any, stage: str
) -> None:
    def fault(inputs: Any) -> None:
        if (inputs.shape[1] > 1) == (stage == "prefill"):
            raise RuntimeError("out of memory, say")

    bench.loop.submit(1, request(prompt(30)))
    bench.loop.submit(2, request(prompt(30, seed=2)))
    bench.model.fault = fault
    bench.run()
    assert set(bench.failures) == {1, 2}
    assert all(isinstance(error, GenerationFailed) for error in bench.failures.values())
    assert "out of memory, say" in str(bench.failures[1])
    bench.model.fault = None
    bench.loop.submit(3, request(prompt(30)))
    bench.run()
    assert bench.ids(3) == greedy_alone(tiny_model, prompt(30), 8)


def test_a_request_that_cannot_start_fails_alone(bench: Bench) -> None:
    bench.loop.submit(1, request([], max_tokens=4))
    bench.loop.submit(2, request(prompt(4), max_tokens=4))
    bench.run()
    assert isinstance(bench.failures[1], GenerationFailed)
    assert len(bench.ids(2)) == 4


@pytest.mark.parametrize(
    "wrong", [request([5, 60_000]), request([5], sampling=Sampling(logit_bias={60_000: 1.0}))], ids=["prompt", "bias"]
)
def test_tokens_that_the_model_does_not_have_are_refused(bench: Bench, wrong: TokenRequest) -> None:
    """A tokenizer may have more tokens than the model; mlx would read and write beyond its arrays."""
    bench.loop.submit(1, wrong)
    bench.loop.submit(2, request(prompt(4), max_tokens=4))
    bench.run()
    assert isinstance(bench.failures[1], InvalidRequest)
    assert len(bench.ids(2)) == 4


@pytest.mark.parametrize(("error", "kind"), [(None, ShuttingDown), (RuntimeError("broken"), ModelUnavailable)])
def test_closing_says_why_to_all(bench: Bench, error: Exception | None, kind: type[GatewayError]) -> None:
    bench.loop.submit(1, request(prompt(4), max_tokens=50))
    bench.steps(3)
    bench.loop.submit(2, request(prompt(4)))
    bench.loop.close(error)
    assert isinstance(bench.reports[-1].closed, kind)
    assert not bench.loop.has_work


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_tokens_are_the_same_alone_and_in_any_crowd(tiny_model: Any, data: st.DataObject) -> None:
    """Rows join, are cancelled and finish at random; every greedy or seeded row is what it is alone."""
    crowd, requests = Bench(tiny_model), {}
    samplings = st.sampled_from([GREEDY, Sampling(temperature=0.9), Sampling(temperature=1.2, top_p=0.8, top_k=40)])
    for ticket in range(data.draw(st.integers(2, 6))):
        length, max_tokens = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 15))
        requests[ticket] = request(prompt(length, ticket), max_tokens, (ticket,), sampling=data.draw(samplings))
        crowd.loop.submit(ticket, requests[ticket])
        crowd.steps(data.draw(st.integers(0, 4)))
        if data.draw(st.booleans()):
            crowd.loop.cancel(data.draw(st.integers(0, ticket)))
    crowd.run()
    for ticket, one in requests.items():
        alone = Bench(tiny_model)
        alone.loop.submit(ticket, one)
        alone.run()
        seen = crowd.ids(ticket)
        assert seen == alone.ids(ticket)[: len(seen)]
        finished = bool(crowd.tokens[ticket]) and crowd.tokens[ticket][-1].finish
        assert not finished or len(seen) == len(alone.ids(ticket))
