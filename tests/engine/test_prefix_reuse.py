"""Prompts that begin like earlier ones, on every kind of cache: the same answers as cold, and less to compute."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gateway.config import CacheConfig, Config
from gateway.engine.batch import Batch
from gateway.engine.cache_factory import CacheFactory
from gateway.engine.generation_loop import GenerationLoop, LoopLimits
from gateway.engine.kv_layout import KvLayout
from gateway.engine.lora import AdaptedModel
from gateway.engine.memory_ledger import MemoryLedger, ModelMemory
from gateway.engine.prefill import Cohort, Prompt
from gateway.engine.token_stream import StepReport, TokenRequest
from gateway.generation.adapter import BASE
from gateway.generation.request import Priority, Sampling
from gateway.prefix_cache.extent import BLOCK_TOKENS, Standing
from gateway.prefix_cache.prefix_caches import PrefixCaches, RamUse
from gateway.prefix_cache.reuse import Reuse
from gateway.prefix_cache.row_state import NO_PREFIX, Prefix
from tests.engine.architectures import MODELS, VOCABULARY, build

CHUNK = 64
NAMESPACE = b"tests namespace!"
GREEDY = Sampling(temperature=0)
MIB = 2**20
TOLERANCE = 2e-3
"""Between float32 logits of a hit and of a cold prefill: chunks of other lengths are summed in another order."""


def ids(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(1, VOCABULARY, length)]


class Bench:
    """A loop with a prefix cache in memory, and what it reported."""

    def __init__(self, model: Any, ram_bytes: int = 256 * MIB, kv_bits: int = 0, directory: Path | None = None) -> None:
        """With a `directory` what is kept goes to disk as well; `stop` then writes what waits."""
        self.tokens: dict[int, list[int]] = defaultdict(list)
        self.reuse: dict[int, Reuse] = {}
        self.computed = 0
        self._model = model
        self._tickets = 0
        self.factory = CacheFactory(model, kv_bits)
        assert self.factory.needs
        self._told: SimpleQueue[Callable[[], None]] = SimpleQueue()
        disk_bytes = 0 if directory is None else 1 << 30
        settings = CacheConfig(True, ram_bytes, str(directory or ""), disk_bytes, disk_free_bytes=0)
        ledger = MemoryLedger(4 << 30)
        self.caches = PrefixCaches(Config(cache=settings), self._told.put)
        cache = self.caches.open("m", NAMESPACE, self.factory.needs, ledger)
        assert cache
        for _ in self.caches.find_on_disk("m"):
            pass
        self.cache = cache
        limits = LoopLimits(4, CHUNK, 16, 4 * CHUNK, 5.0, 10.0, speculation=False)
        layout = KvLayout.measure(model, CHUNK, lambda _: self.factory.model_caches())
        memory = ModelMemory(ledger, "m", layout, 0, limits.pass_tokens)
        self.loop = GenerationLoop(
            Batch(self, self.factory, {BASE: cache}), VOCABULARY, limits, memory, self._note, {BASE: cache}
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, inputs: mx.array, cache: Any) -> Any:
        self.computed += inputs.size
        return self._model(inputs, cache=cache)

    def _note(self, report: StepReport) -> None:
        assert not report.failures
        self.reuse |= dict(report.reused)
        for ticket, token in report.tokens:
            self.tokens[ticket].append(token.token)

    def submit(self, prompt: list[int], max_tokens: int = 4, **more: Any) -> int:
        self._tickets += 1
        request = TokenRequest(prompt, max_tokens, GREEDY, (1,), frozenset(), **more)
        self.loop.submit(self._tickets, request)
        return self._tickets

    def run(self) -> None:
        """Until every request has ended; what the disk has to tell is heard between two steps."""
        while self.loop._tickets:
            if not self.loop.has_work:
                self._told.get(timeout=10)()
            while not self._told.empty():
                self._told.get()()
            self.loop.step()

    @property
    def ram(self) -> RamUse:
        return self.caches.describe().ram

    def ram_bytes_after(self, prompt: list[int]) -> int:
        self.answer(prompt)
        return self.ram.bytes

    def stop(self) -> None:
        self.caches.stop()

    def answer(self, prompt: list[int], max_tokens: int = 4, **more: Any) -> tuple[list[int], Reuse]:
        ticket = self.submit(prompt, max_tokens, **more)
        self.run()
        return self.tokens[ticket], self.reuse[ticket]


def cold_logits(model: Any, tokens: Sequence[int]) -> mx.array:
    logits: mx.array = model(mx.array([tokens]))[0, -1]
    return logits


def logits_after(bench: Bench, tokens: list[int]) -> tuple[mx.array, int]:
    """The logits after the last token, computed on what the cache has of the others; and how much that was."""
    prefix = bench.cache.take(bench.cache.find(tokens), "")
    return logits_of(bench, tokens, prefix), prefix.tokens


def logits_of(bench: Bench, tokens: list[int], prefix: Prefix) -> mx.array:
    cohort = Cohort(bench.factory)
    cohort.join([Prompt(1, [], tokens, prefix, Standing())])
    while cohort.left:
        cohort.compute(AdaptedModel(bench), CHUNK)
    logits: mx.array = bench(mx.array([[tokens[-1]]]), cache=cohort.caches.layers)[0, -1]
    return logits


@pytest.mark.parametrize("name", MODELS)
def test_a_conversation_goes_on_where_it_was(name: str) -> None:
    """The next turn computes its new tokens only, and gets the logits of a cold prefill."""
    model = build(name, mx.float32)
    bench = Bench(model)
    history = ids(700)
    answer, _ = bench.answer(history, 40)
    turn = history + answer + ids(50, 1)
    logits, taken = logits_after(bench, turn)
    assert taken == len(history) + len(answer) - 1, "all but the last token of the answer, which was never fed"
    assert mx.allclose(logits, cold_logits(model, turn), atol=TOLERANCE, rtol=TOLERANCE)
    bench.computed = 0
    again, reuse = bench.answer(turn, 5)
    assert again == Bench(model).answer(turn, 5)[0]
    assert reuse.ram == taken
    assert bench.computed < 50 + 10


@pytest.mark.parametrize("name", MODELS)
def test_an_edited_last_message_takes_what_is_before_it(name: str) -> None:
    """Keys and values are cut where the edit begins; states stand where the last message began."""
    model = build(name, mx.float32)
    bench = Bench(model)
    before, edited = ids(800), ids(60, 2)
    bench.answer(before + ids(60, 1), message_ends=(800,))
    logits, taken = logits_after(bench, before + edited)
    assert taken == 800
    assert mx.allclose(logits, cold_logits(model, before + edited), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_a_cancelled_prompt_keeps_what_was_computed(name: str) -> None:
    bench = Bench(build(name, mx.float32))
    prompt = ids(1200)
    ticket = bench.submit(prompt)
    while bench.computed < 900:
        bench.loop.step()
    bench.loop.cancel(ticket)
    assert not bench.loop.has_work
    computed, bench.computed = bench.computed, 0
    _, reuse = bench.answer(prompt)
    assert reuse.ram == computed
    assert bench.computed < 1200 - computed + 10


def test_a_repeated_prompt_waits_for_the_one_that_is_computed() -> None:
    bench = Bench(build("llama", mx.float32))
    prompt = ids(900)
    first = bench.submit(prompt)
    bench.loop.step()
    second = bench.submit(prompt)
    bench.run()
    assert bench.tokens[first] == bench.tokens[second] == Bench(build("llama", mx.float32)).answer(prompt)[0]
    assert bench.reuse[second].shared == 899
    assert bench.computed < 900 + 20


def test_whoever_waits_for_a_prompt_that_is_cancelled_goes_on_from_there() -> None:
    bench = Bench(build("llama", mx.float32))
    prompt = ids(900)
    first = bench.submit(prompt)
    while bench.computed < 300:
        bench.loop.step()
    second = bench.submit(prompt)
    bench.loop.step()
    bench.loop.cancel(first)
    bench.run()
    assert bench.tokens[second] == Bench(build("llama", mx.float32)).answer(prompt)[0]
    assert bench.computed < 900 + 20


def test_nobody_waits_for_a_prompt_that_had_to_make_room() -> None:
    bench = Bench(build("llama", mx.float32))
    prompt = ids(900)
    first = bench.submit(prompt, priority=Priority.BACKGROUND)
    while bench.computed < 300:
        bench.loop.step()
    second = bench.submit(prompt, priority=Priority.INTERACTIVE)
    bench.loop.step()
    assert second not in bench.reuse
    bench.loop._preempt(bench.loop._tickets[first])
    bench.loop.step()
    assert second in bench.reuse
    bench.run()
    assert bench.tokens[first] == bench.tokens[second] == Bench(build("llama", mx.float32)).answer(prompt)[0]


def test_sessions_with_one_system_prompt_compute_it_once() -> None:
    bench = Bench(build("llama", mx.float32))
    system = ids(600)
    tickets = [bench.submit(system + ids(40, seed)) for seed in (1, 2, 3)]
    bench.run()
    assert bench.computed < 600 + 3 * (40 + 10) + 40
    assert sorted(bench.reuse[ticket].shared for ticket in tickets)[1:] == [600, 600]


def test_less_than_a_block_in_common_is_computed_again() -> None:
    """Rows that begin with different lengths cost every later pass more than a template's first words do."""
    bench = Bench(build("llama", mx.float32))
    words = ids(BLOCK_TOKENS - 1)
    bench.answer(words + ids(80, 1))
    together = [bench.submit(words + ids(80, seed)) for seed in (2, 3)] + [bench.submit(ids(80 + len(words), 4))]
    bench.run()
    assert [bench.reuse[ticket].tokens for ticket in together] == [0, 0, 0]
    block = ids(BLOCK_TOKENS, 5)
    bench.answer(block + ids(80, 6))
    assert bench.answer(block + ids(80, 7))[1].ram == BLOCK_TOKENS


def test_memory_holds_no_more_than_it_may() -> None:
    """The least recently used goes; what is left serves as before."""
    limit = 2 * MIB
    bench = Bench(build("llama", mx.float32), ram_bytes=limit)
    prompts = [ids(400, seed) for seed in range(8)]
    for prompt in prompts:
        bench.answer(prompt)
        assert bench.ram.bytes <= limit
    assert bench.ram.evicted
    assert bench.answer(prompts[-1])[1].ram == 399
    assert bench.answer(prompts[0])[1].ram < 399
    assert bench.answer(prompts[0])[0] == Bench(build("llama", mx.float32)).answer(prompts[0])[0]


@settings(max_examples=12, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", MODELS)
def test_random_histories_get_the_logits_of_a_cold_prefill(name: str, data: st.DataObject) -> None:
    """Turns that go on, edits, retries and cancellations, in a memory that is always too small."""
    model = build(name, mx.float32)
    bench = Bench(model, ram_bytes=data.draw(st.sampled_from([MIB, 4 * MIB, 64 * MIB])))
    histories = [ids(data.draw(st.integers(1, 700)), 1)]
    for turn in range(data.draw(st.integers(2, 5))):
        history = data.draw(st.sampled_from(histories))
        kept = data.draw(st.integers(len(history) // 2, len(history)))
        prompt = history[:kept] + ids(data.draw(st.integers(1, 300)), 10 + turn)
        ticket = bench.submit(prompt, data.draw(st.integers(1, 40)), message_ends=(kept,))
        for _ in range(data.draw(st.integers(0, 8))):
            bench.loop.step()
        if data.draw(st.booleans()):
            bench.loop.cancel(ticket)
        bench.run()
        histories.append(prompt + bench.tokens[ticket])
        asked = data.draw(st.sampled_from(histories))
        logits, _ = logits_after(bench, asked)
        assert mx.allclose(logits, cold_logits(model, asked), atol=TOLERANCE, rtol=TOLERANCE)


@settings(max_examples=5, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", MODELS)
def test_random_histories_over_restarts_get_the_answers_of_a_cold_prefill(name: str, data: st.DataObject) -> None:
    """What an earlier run left on disk is taken, and only where it is right; memory holds next to nothing."""
    model = build(name, mx.float32)
    history = ids(data.draw(st.integers(200, 700)), 1)
    with TemporaryDirectory() as folder:
        bench = Bench(model, MIB, directory=Path(folder))
        try:
            for turn in range(data.draw(st.integers(2, 4))):
                ticket = bench.submit(history, data.draw(st.integers(1, 20)), message_ends=(len(history),))
                for _ in range(data.draw(st.integers(0, 6))):
                    bench.loop.step()
                if data.draw(st.booleans()):
                    bench.loop.cancel(ticket)
                bench.run()
                if data.draw(st.booleans()):
                    bench.stop()
                    bench = Bench(model, data.draw(st.sampled_from([MIB, 64 * MIB])), directory=Path(folder))
                kept = data.draw(st.integers(len(history) // 2, len(history)))
                history = history[:kept] + ids(data.draw(st.integers(1, 200)), 10 + turn)
                answered, reuse = bench.answer(history)
                assert answered == Bench(model).answer(history)[0]
                event(f"tokens from disk: {reuse.disk > 0}")
        finally:
            bench.stop()


@pytest.mark.parametrize("name", MODELS)
def test_a_restart_takes_from_disk_what_was_computed(name: str, tmp_path: Path) -> None:
    model = build(name, mx.float32)
    prompt = ids(600)
    first = Bench(model, directory=tmp_path)
    answer, _ = first.answer(prompt)
    first.stop()
    second = Bench(model, directory=tmp_path)
    try:
        again, reuse = second.answer(prompt)
        assert again == answer
        assert reuse.disk == len(prompt) - 1
    finally:
        second.stop()


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_keys_and_values_are_kept_as_they_are(bits: int) -> None:
    """In few bits the model says something else than in full; what matters is that a hit says the same as no hit."""
    model = build("llama", mx.float32)
    bench = Bench(model, kv_bits=bits)
    history = ids(700)
    answer, _ = bench.answer(history, 40)
    turn = history + answer + ids(50, 1)
    logits, taken = logits_after(bench, turn)
    assert taken == 739
    cold = logits_of(Bench(model, kv_bits=bits), turn, NO_PREFIX)
    assert mx.allclose(logits, cold, atol=TOLERANCE, rtol=TOLERANCE)
    assert bench.answer(turn, 5)[0] == Bench(model, kv_bits=bits).answer(turn, 5)[0]
    assert bench.ram.bytes < Bench(model).ram_bytes_after(history) / 2
