"""The generation loop with a real model and real batches, stepped by the test as the MLX thread would."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engine.memory_ledger import FIRST_GUESS_SHARE
from gateway.engine.token_stream import GeneratedToken, StepReport, TokenRequest
from gateway.errors import (
    AdapterUnfit,
    GatewayError,
    GenerationFailed,
    InvalidRequest,
    ModelUnavailable,
    RequestTooLarge,
    ShuttingDown,
)
from gateway.generation.request import Priority, Sampling
from gateway.observability.engine_state import EngineState

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
        self.widths: list[int] = []
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, inputs: Any, cache: Any) -> Any:
        if self.fault:
            self.fault(inputs)
        self.forward_tokens += inputs.size
        self.widths.append(inputs.shape[1])
        self.rows.append(inputs.shape[0])
        return self._model(inputs, cache=cache)


class Bench:
    """A loop and everything it reported."""

    def __init__(
        self,
        loaded: Any,
        *,
        budget_bytes: int = 4 << 30,
        chunk_tokens: int = PREFILL_CHUNK,
        min_chunk_tokens: int = PREFILL_CHUNK,
    ) -> None:
        from gateway.engine.batch import Batch
        from gateway.engine.generation_loop import GenerationLoop, LoopLimits
        from gateway.engine.kv_layout import KvLayout
        from gateway.engine.memory_ledger import MemoryLedger, ModelMemory

        self.model = FaultyModel(loaded.model)
        self.tokens: dict[int, list[GeneratedToken]] = defaultdict(list)
        self.failures: dict[int, GatewayError] = {}
        self.reports: list[StepReport] = []
        limits = LoopLimits(
            max_rows=MAX_RUNNING,
            chunk_tokens=chunk_tokens,
            min_chunk_tokens=min_chunk_tokens,
            pass_tokens=4 * PREFILL_CHUNK,
            stall_budget=5.0,
            ageing_seconds=10.0,
            speculation=True,
        )
        layout = KvLayout.measure(loaded.model, PREFILL_CHUNK)
        self.memory = ModelMemory(MemoryLedger(budget_bytes), "tiny", layout, loaded.weight_bytes, limits.pass_tokens)
        self.loop = GenerationLoop(Batch(self.model), loaded.vocabulary, limits, self.memory, self._note)

    def _note(self, report: StepReport) -> None:
        self.reports.append(report)
        for ticket, token in report.tokens:
            self.tokens[ticket].append(token)
        for ticket, error in report.failures:
            assert ticket not in self.failures
            self.failures[ticket] = error

    @property
    def state(self) -> EngineState:
        return self.reports[-1].state

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


def test_a_scored_prompt_has_the_probabilities_of_a_full_forward_pass(bench: Bench, tiny_model: Any) -> None:
    """Of prompts in one cohort, in many chunks and in one, of a single token, and beside one that wants none."""
    import mlx.core as mx

    for ticket, length in enumerate((50, 7, 1)):
        bench.loop.submit(ticket, replace(request(prompt(length, ticket), top_logprobs=2), score_prompt=True))
    bench.loop.submit(3, request(prompt(20), top_logprobs=2))
    bench.run()
    scored = dict(entry for report in bench.reports for entry in report.prompt_scores)
    assert set(scored) == {0, 1, 2}
    assert bench.ids(3) == greedy_alone(tiny_model, prompt(20), 8)
    for ticket, length in enumerate((50, 7, 1)):
        ids = prompt(length, ticket)
        logits = tiny_model.model(mx.array([ids]))[0]
        reference = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        assert len(scored[ticket]) == length - 1
        for place, scores in enumerate(scored[ticket]):
            assert scores.chosen == pytest.approx(reference[place, ids[place + 1]], abs=1e-4)
            assert [logprob for _, logprob in scores.top] == pytest.approx(sorted(reference[place])[:-3:-1], abs=1e-4)
        assert bench.ids(ticket) == greedy_alone(tiny_model, ids, 8)


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
    bench.loop.submit(2, request(prompt(12), max_tokens=5))
    bench.run()
    assert bench.ids(2) == greedy_alone(tiny_model, prompt(12), 5)


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
    assert (bench.state.running, bench.state.waiting_rows) == (MAX_RUNNING - 1, 3)  # one is kept for interactive work
    bench.run()
    assert (bench.state.running, bench.state.waiting_rows) == (0, 0)
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
    assert bench.state.running == 1
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


def test_what_was_sampled_for_cancelled_rows_is_forgotten(bench: Bench, tiny_model: Any) -> None:
    bench.loop.submit(1, request(prompt(5), max_tokens=50))
    bench.steps(4)
    bench.loop.cancel(1)
    bench.loop.submit(2, request(prompt(6), max_tokens=6))
    bench.run()
    assert not bench.failures
    assert bench.ids(2) == greedy_alone(tiny_model, prompt(6), 6)


def test_a_cancelled_prefill_computes_no_more(bench: Bench) -> None:
    bench.loop.submit(1, request(prompt(400)))
    bench.steps(2)
    bench.loop.cancel(1)
    computed = bench.model.forward_tokens
    assert computed < 100
    bench.run()
    assert bench.model.forward_tokens == computed


def test_a_prompt_that_cannot_be_computed_fails_alone(bench: Bench, tiny_model: Any) -> None:
    bench.loop.submit(1, request(prompt(6), max_tokens=12))
    bench.steps(4)

    def fault(inputs: Any) -> None:
        if inputs.shape[1] > 1:
            raise RuntimeError("out of memory, say")

    bench.loop.submit(2, request(prompt(30, seed=2)))
    bench.model.fault = fault
    bench.run()
    assert set(bench.failures) == {2}
    assert isinstance(bench.failures[2], GenerationFailed)
    assert bench.ids(1) == greedy_alone(tiny_model, prompt(6), 12)


@pytest.mark.parametrize("stage", ["decode", "sampling"])
def test_a_failing_step_ends_its_rows_and_everyone_else_is_served(
    bench: Bench, tiny_model: Any, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that decode; a prompt that is being computed, one that waits and all that follow are not touched."""
    import gateway.engine.decoding as decoding

    def fault(inputs: Any = None, *more: Any) -> Any:
        if stage == "sampling" or inputs.shape[1] == 1:
            raise RuntimeError("out of memory, say")

    for ticket in (1, 2):
        bench.loop.submit(ticket, request(prompt(5, seed=ticket), max_tokens=50))
    bench.steps(4)
    bench.loop.submit(3, request(prompt(60, seed=3)))
    bench.loop.step()
    with monkeypatch.context() as patch:
        if stage == "decode":
            bench.model.fault = fault
        else:
            patch.setattr(decoding, "sample", fault)
        bench.loop.step()
    bench.model.fault = None
    assert set(bench.failures) == {1, 2}
    assert all(isinstance(error, GenerationFailed) for error in bench.failures.values())
    assert "out of memory, say" in str(bench.failures[1])
    bench.loop.submit(4, request(prompt(30)))
    bench.run()
    assert set(bench.failures) == {1, 2}
    assert bench.ids(3) == greedy_alone(tiny_model, prompt(60, seed=3), 8)
    assert bench.ids(4) == greedy_alone(tiny_model, prompt(30), 8)


class FaultyGrammar:
    """Allows everything until the third token, then one method breaks; a `CompiledGrammar` and its `Constraint`."""

    def __init__(self, breaks: str, error: Exception) -> None:
        self.breaks = breaks
        self.error = error
        self.tokens = 0

    def _perhaps_break(self, method: str) -> None:
        if method == self.breaks and (self.tokens >= 3 or method == "start"):
            raise self.error

    def start(self) -> "FaultyGrammar":
        self._perhaps_break("start")
        return self

    def mask(self) -> Any:
        self._perhaps_break("mask")
        return np.full(49152 // 32, 0xFFFFFFFF, np.uint32)

    def masks_along(self, draft: list[int]) -> Any:
        self._perhaps_break("masks_along")
        return 0, [self.mask()]

    def forced(self, limit: int) -> list[int]:
        self._perhaps_break("forced")
        return [5] if self.tokens >= 3 else []

    def advance(self, token: int) -> None:
        self.tokens += 1
        self._perhaps_break("advance")


@pytest.mark.parametrize("error", [GenerationFailed("too complex"), ZeroDivisionError("a defect")])
@pytest.mark.parametrize(("breaks", "tokens"), [("start", 0), ("mask", 2), ("advance", 2)])
def test_a_grammar_that_breaks_ends_its_answer_alone(
    bench: Bench, tiny_model: Any, breaks: str, tokens: int, error: Exception
) -> None:
    grammar: Any = FaultyGrammar(breaks, error)
    bench.loop.submit(1, replace(request(prompt(9), max_tokens=12), grammar=grammar))
    bench.loop.submit(2, request(prompt(6), max_tokens=12))
    bench.run()
    assert isinstance(bench.failures[1], GenerationFailed)
    assert len(bench.ids(1)) == tokens
    assert set(bench.failures) == {1}
    assert bench.ids(2) == greedy_alone(tiny_model, prompt(6), 12)


@pytest.mark.parametrize("breaks", ["forced", "masks_along"])
def test_a_grammar_that_cannot_look_ahead_does_without(bench: Bench, tiny_model: Any, breaks: str) -> None:
    grammar: Any = FaultyGrammar(breaks, ZeroDivisionError("a defect"))
    bench.loop.submit(1, replace(request(prompt(9), max_tokens=12), grammar=grammar))
    bench.loop.submit(2, request(prompt(6), max_tokens=12))
    bench.run()
    assert not bench.failures
    assert bench.ids(1) == greedy_alone(tiny_model, prompt(9), 12)
    assert bench.ids(2) == greedy_alone(tiny_model, prompt(6), 12)


def test_rows_that_made_room_do_not_count_as_running(tiny_model: Any) -> None:
    """Two that were put back, and nobody else: they must start again."""
    bench = Bench(tiny_model)
    for ticket in (1, 2, 3, 4):
        bench.loop.submit(ticket, request(prompt(9, ticket), max_tokens=6, seeds=(1,)))
    bench.steps(3)
    for running in [known for known in bench.loop._tickets.values() if known.started]:
        bench.loop._preempt(running)
    bench.run()
    assert all(bench.ids(ticket) == greedy_alone(tiny_model, prompt(9, ticket), 6) for ticket in (1, 2, 3, 4))


def test_one_choice_that_fails_ends_its_request_alone(bench: Bench, tiny_model: Any) -> None:
    grammar: Any = FaultyGrammar("advance", GenerationFailed("too complex"))
    bench.loop.submit(1, replace(request(prompt(9), max_tokens=12, seeds=(1, 2)), grammar=grammar))
    bench.loop.submit(2, request(prompt(6), max_tokens=12))
    bench.run()
    assert set(bench.failures) == {1}
    assert bench.ids(2) == greedy_alone(tiny_model, prompt(6), 12)


def test_a_request_that_ends_in_the_step_that_fails_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last token is read before the sampling of the others fails."""
    import gateway.engine.decoding as decoding

    def fault(*arguments: object) -> None:
        raise RuntimeError("out of memory, say")

    bench.loop.submit(1, request(prompt(5), max_tokens=4))
    bench.loop.submit(2, request(prompt(5), max_tokens=50))
    while len(bench.ids(1)) < 3:
        bench.loop.step()
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "sample", fault)
        bench.loop.step()
    assert set(bench.failures) == {1, 2}
    assert not bench.loop.has_work


def test_a_choice_of_a_waiting_request_can_be_cancelled(bench: Bench) -> None:
    for ticket in range(MAX_RUNNING):
        bench.loop.submit(ticket, request(prompt(5, ticket), max_tokens=20))
    bench.loop.submit(9, request(prompt(9), max_tokens=3, seeds=(5, 6)))
    bench.loop.step()
    bench.loop.cancel(9, 0)
    bench.run()
    assert (len(bench.ids(9, 0)), len(bench.ids(9, 1))) == (0, 3)


def test_short_work_overtakes_a_long_prompt_between_chunks(bench: Bench) -> None:
    bench.loop.submit(1, request(prompt(400), max_tokens=2))
    bench.steps(3)
    bench.loop.submit(2, replace(request(prompt(10), max_tokens=2), priority=Priority.INTERACTIVE, session="b"))
    bench.run()
    assert [ticket for report in bench.reports for ticket, _ in report.tokens] == [2, 2, 1, 1]
    assert bench.model.forward_tokens < 400 + 10 + 8


def test_prompts_that_come_a_moment_later_are_computed_together_with_the_first(bench: Bench, tiny_model: Any) -> None:
    """They join at the next chunk, of which the first is short, and all get the tokens they would get alone."""
    prompts = {ticket: prompt(40 + ticket, ticket) for ticket in (1, 2, 3)}
    bench.loop.submit(1, request(prompts[1], max_tokens=4))
    bench.loop.step()
    for ticket in (2, 3):
        bench.loop.submit(ticket, request(prompts[ticket], max_tokens=4))
    bench.model.rows.clear()
    bench.loop.step()
    assert bench.model.rows == [3]
    bench.run()
    for ticket, ids in prompts.items():
        assert bench.ids(ticket) == greedy_alone(tiny_model, ids, 4)


def test_a_prompt_that_others_may_join_begins_with_a_short_chunk(tiny_model: Any) -> None:
    bench = Bench(tiny_model, chunk_tokens=64, min_chunk_tokens=4)
    bench.loop.submit(1, request(prompt(200), max_tokens=1))
    bench.steps(2)
    assert bench.model.widths == [16, 64]


def test_a_prompt_beside_a_running_answer_is_computed_in_chunks_of_the_stall_budget(tiny_model: Any) -> None:
    """With a pass that costs its tokens, the chunk is what the budget of four decode steps buys."""
    bench = Bench(tiny_model, chunk_tokens=128, min_chunk_tokens=4)
    pace = bench.loop._batch.pace
    pace.cost.seconds = lambda tokens, attended: 0.001 * tokens  # type: ignore[method-assign]
    pace.decode_seconds = lambda tokens, context: 0.01  # type: ignore[method-assign]
    bench.loop.submit(1, request(prompt(5), max_tokens=60))
    bench.steps(3)
    bench.loop.submit(2, request(prompt(300), max_tokens=1))
    bench.model.widths.clear()
    bench.loop.step()
    (chunk,) = [width for width in bench.model.widths if width > 1]
    assert chunk == 40  # (5 - 1) x 10 ms, at 1 ms a token


def budget_for(loaded: Any, kv_cache_bytes: int) -> int:
    """A budget that leaves so much beside the weights and the first guess of the work space."""
    beside: int = loaded.weight_bytes + kv_cache_bytes
    return round(beside / (1 - 1 / FIRST_GUESS_SHARE))


def test_memory_holds_requests_back_until_there_is_room(tiny_model: Any) -> None:
    """Room for two rows of 300 tokens: the third waits, though rows are free, and all are served."""
    whole, kv_cache = Bench(tiny_model), []
    for ticket in range(3):
        whole.loop.submit(ticket, request(prompt(40, ticket), max_tokens=260))
        whole.loop.step()
        kv_cache.append(whole.memory.owners()["kv_cache"])
    room = (kv_cache[1] + kv_cache[2]) // 2
    bench = Bench(tiny_model, budget_bytes=budget_for(tiny_model, room))
    bench.memory.observe_pass = lambda *observed: None  # type: ignore[method-assign]  # the first guess stays
    for ticket in range(3):
        bench.loop.submit(ticket, request(prompt(40, ticket), max_tokens=260))
    bench.steps(6)
    assert (bench.state.running, bench.state.waiting_rows) == (2, 1)
    bench.run()
    assert not bench.failures
    assert all(len(bench.ids(ticket)) == 260 for ticket in range(3))


def test_a_request_that_can_never_fit_is_refused_with_numbers(tiny_model: Any) -> None:
    bench = Bench(tiny_model, budget_bytes=tiny_model.weight_bytes + (2 << 20))
    bench.loop.submit(1, request(prompt(40), max_tokens=100_000))
    bench.loop.submit(2, request(prompt(40), max_tokens=5))
    bench.run()
    assert isinstance(bench.failures[1], RequestTooLarge)
    assert "100000" in str(bench.failures[1])
    assert len(bench.ids(2)) == 5


def test_answers_that_outgrow_their_memory_make_room_and_lose_nothing(tiny_model: Any) -> None:
    """Two answers of unstated length: the later one goes back into the queue and goes on where it was."""
    requests = {
        ticket: replace(
            request(prompt(40, ticket), max_tokens=420, seeds=(ticket,), sampling=Sampling(temperature=1.0)),
            expected_tokens=20,
        )
        for ticket in (1, 2)
    }
    expected = {}
    for ticket, one in requests.items():
        alone = Bench(tiny_model)
        alone.loop.submit(ticket, one)
        alone.run()
        expected[ticket] = alone.ids(ticket)
    alone.loop.submit(1, replace(requests[1], expected_tokens=None))
    alone.loop.step()
    one_row = alone.memory.owners()["kv_cache"]
    bench = Bench(tiny_model, budget_bytes=budget_for(tiny_model, round(1.5 * one_row)))
    bench.memory.observe_pass = lambda *observed: None  # type: ignore[method-assign]
    for ticket, one in requests.items():
        bench.loop.submit(ticket, one)
    bench.run()
    assert bench.state.preempted > 0
    assert not bench.failures
    assert {ticket: bench.ids(ticket) for ticket in requests} == expected


def test_a_lone_answer_ends_where_memory_does(tiny_model: Any) -> None:
    one = replace(request(prompt(40), max_tokens=100_000), expected_tokens=20)
    bench = Bench(tiny_model, budget_bytes=budget_for(tiny_model, 1 << 20))
    bench.memory.observe_pass = lambda *observed: None  # type: ignore[method-assign]
    bench.loop.submit(1, one)
    bench.run()
    assert not bench.failures
    assert bench.tokens[1][-1].finish == "length"
    assert 20 < len(bench.ids(1)) < 5000


def test_a_request_that_cannot_start_fails_alone(bench: Bench) -> None:
    bench.loop.submit(1, request([], max_tokens=4))
    bench.loop.submit(2, request(prompt(4), max_tokens=4))
    bench.run()
    assert isinstance(bench.failures[1], InvalidRequest)
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


def test_an_adapter_that_is_not_loaded_fails_its_own_request(bench: Bench) -> None:
    bench.loop.submit(1, replace(request(prompt(9)), adapter="sql"))
    bench.loop.submit(2, request(prompt(9)))
    bench.run()
    assert isinstance(bench.failures[1], AdapterUnfit)
    assert "'sql'" in str(bench.failures[1])
    assert len(bench.ids(2)) == 8
