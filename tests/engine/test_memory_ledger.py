from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.kv_layout import KvLayout, LayerCost
from gateway.engine.memory_ledger import DECAY, MemoryLedger, ModelMemory, WorkSpace
from gateway.errors import RequestTooLarge

MIB = 2**20
LAYOUT = KvLayout((LayerCost(token_bytes=1024, step=256, layers=4),))
"""4 KiB a token."""


def model_memory(budget_bytes: int, weight_bytes: int = 0, ledger: MemoryLedger | None = None) -> ModelMemory:
    """Without any pass seen, a twentieth of the budget is kept as work space."""
    return ModelMemory(ledger or MemoryLedger(budget_bytes), "tiny", LAYOUT, weight_bytes, pass_tokens=128)


# --- the ledger --------------------------------------------------------------------------------------


def test_what_is_held_is_not_free_and_comes_back() -> None:
    ledger = MemoryLedger(100)
    ledger.hold("weights", 40, lasting=True)
    ledger.hold("caches", 30)
    assert ledger.free_bytes == 30
    assert ledger.fits_now("prefixes", 30)
    assert not ledger.fits_now("prefixes", 31)
    assert ledger.shortfall_bytes("prefixes", 50) == 20
    ledger.release("caches")
    assert ledger.free_bytes == 60


def test_an_owner_that_wants_more_needs_only_the_difference() -> None:
    ledger = MemoryLedger(100)
    ledger.hold("caches", 60)
    assert ledger.fits_now("caches", 100)
    assert not ledger.fits_now("others", 41)
    ledger.hold("caches", 90)
    assert ledger.held_by("caches") == 90
    assert ledger.free_bytes == 10


def test_what_can_go_does_not_count_against_what_could_ever_fit() -> None:
    ledger = MemoryLedger(100)
    ledger.hold("weights", 40, lasting=True)
    ledger.hold("prefixes", 50)
    assert ledger.most_bytes(work_space_bytes=10) == 50
    assert not ledger.fits_now("caches", 11)


def test_one_pass_runs_at_a_time_so_only_the_largest_work_space_counts() -> None:
    ledger = MemoryLedger(100)
    ledger.set_work_space("small", 10)
    ledger.set_work_space("large", 30)
    assert ledger.free_bytes == 70
    assert ledger.fits_now("caches", 70, work_space_bytes=20)
    assert ledger.fits_now("caches", 60, work_space_bytes=40)
    assert not ledger.fits_now("caches", 61, work_space_bytes=40)
    ledger.set_work_space("large", 0)
    assert ledger.free_bytes == 90


OWNERS = st.sampled_from(["weights", "caches of a", "caches of b", "prefixes"])


@given(st.integers(0, 1000), st.lists(st.tuples(OWNERS, st.integers(0, 400), st.integers(0, 100))))
def test_asking_before_holding_never_exceeds_the_budget(budget: int, wishes: list[tuple[str, int, int]]) -> None:
    ledger = MemoryLedger(budget)
    admitted: dict[str, int] = {}
    work = 0
    for owner, wanted, work_space in wishes:
        if ledger.fits_now(owner, wanted, work_space):
            ledger.hold(owner, wanted, lasting=owner == "weights")
            admitted[owner] = wanted
            work = max(work, work_space)
            ledger.set_work_space("a", work)
        else:  # and it refuses nothing that would have fitted
            others = sum(held for name, held in admitted.items() if name != owner)
            assert others + wanted + max(work, work_space) > budget
        assert sum(admitted.values()) + work <= budget
        assert ledger.free_bytes == budget - sum(admitted.values()) - work
    for owner in admitted:
        ledger.release(owner)
    assert ledger.free_bytes == budget - work


# --- work space --------------------------------------------------------------------------------------

PASSES = st.tuples(st.integers(1, 4096), st.integers(1, 100_000), st.integers(0, 10**10))


@given(st.lists(PASSES, min_size=1, max_size=30))
def test_work_space_is_never_below_a_peak_until_that_has_decayed(passes: Iterable[tuple[int, int, int]]) -> None:
    work_space = WorkSpace(first_guess_bytes=0)
    decayed: list[tuple[int, int, float]] = []
    for tokens, context, needed in passes:
        work_space.observe(tokens, context, needed)
        decayed = [(t, c, peak * DECAY) for t, c, peak in decayed] + [(tokens, context, needed)]
        for t, c, peak in decayed:
            assert work_space.bytes_for(t, c) >= round(peak)


@given(st.lists(PASSES, max_size=10), st.integers(1, 4096), st.integers(1, 50_000), st.integers(0, 50_000))
def test_a_longer_context_never_takes_less(
    passes: Iterable[tuple[int, int, int]], tokens: int, context: int, more: int
) -> None:
    work_space = WorkSpace(first_guess_bytes=1000)
    for seen in passes:
        work_space.observe(*seen)
    assert work_space.bytes_for(tokens, context + more) >= work_space.bytes_for(tokens, context)


def test_a_peak_is_forgotten_in_time() -> None:
    work_space = WorkSpace(first_guess_bytes=0)
    work_space.observe(128, 1024, 1000)
    for _ in range(177):
        work_space.observe(128, 1024, 10)
    assert 490 < work_space.bytes_for(128, 1024) <= 500
    for _ in range(2000):
        work_space.observe(128, 1024, 10)
    assert work_space.bytes_for(128, 1024) == 10


def test_a_longer_context_is_extrapolated_and_more_tokens_are_guessed() -> None:
    work_space = WorkSpace(first_guess_bytes=5000)
    assert work_space.bytes_for(1, 1) == 5000
    work_space.observe(128, 1024, 100)
    assert work_space.bytes_for(128, 512) == 100
    assert work_space.bytes_for(128, 4096) == 400
    assert work_space.bytes_for(64, 1024) == 100
    assert work_space.bytes_for(256, 1024) == 5000
    work_space.observe(65, 513, 1000)
    assert work_space.bytes_for(128, 1024) >= 1000 * 1024 // 513 * 128 // 65
    work_space.observe(8, 1024, 6000)
    assert work_space.bytes_for(256, 1024) == 6000


# --- one model ---------------------------------------------------------------------------------------


def test_a_batch_that_grows_is_asked_for_whole() -> None:
    ledger = MemoryLedger(100 * MIB)
    memory = model_memory(0, weight_bytes=20 * MIB, ledger=ledger)
    assert memory.fits_now(rows=10, longest=1000)
    memory.hold(10, 1000)
    assert memory.fits_now(10, 1000)
    assert not memory.fits_now(20, 1000)
    assert not model_memory(0, ledger=MemoryLedger(ledger.free_bytes)).fits_now(10, 1000)


def test_a_prompt_being_computed_has_a_cache_of_its_own() -> None:
    budget = 20 * (LAYOUT.needed_bytes(1, 1000) // 19 + 1)
    assert model_memory(budget).fits_now(1, 1000)
    assert not model_memory(budget).fits_now(1, 1000, prompts=[900])


def test_a_longer_batch_needs_more_work_space() -> None:
    ledger = MemoryLedger(1000 * MIB)
    memory = model_memory(0, ledger=ledger)
    memory.observe_pass(128, 128, peak_bytes=120 * MIB, active_bytes_before=10 * MIB, cache_bytes_grown=30 * MIB)
    memory.hold(1, 128)
    assert ledger.work_space_bytes == 80 * MIB
    assert memory.fits_now(1, 1024)
    assert not memory.fits_now(1, 2048)
    memory.release()
    assert ledger.free_bytes == 1000 * MIB


@given(st.integers(1, 200), st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 4))
def test_a_refusal_says_what_would_fit(budget_mib: int, prompt: int, answer: int, choices: int) -> None:
    memory = model_memory(budget_mib * MIB, weight_bytes=3 * MIB)
    try:
        memory.admission.check(prompt, answer, choices)
    except RequestTooLarge as refusal:
        assert not memory.fits_now(choices, prompt + answer, [prompt])
        if refusal.param == "max_tokens":
            fitting = int(str(refusal).split("max_tokens to at most ")[1].split(".")[0].split(",")[0])
            assert 0 < fitting < answer
            memory.admission.check(prompt, fitting, choices)
            assert memory.fits_now(choices, prompt + fitting, [prompt])
        else:
            fitting = int(str(refusal).split("together may have ")[1].split(" ")[0])
            assert fitting <= prompt
            if fitting > 1:
                memory.admission.check(fitting - 1, 1, choices)
    else:
        assert memory.fits_now(choices, prompt + answer, [prompt])


def test_the_refusal_in_words() -> None:
    with pytest.raises(RequestTooLarge) as refused:
        model_memory(20 * MIB).admission.check(prompt_tokens=1000, max_tokens=4000, choices=1)
    assert str(refused.value) == (
        "This request needs 36 MiB of memory for 1000 tokens of prompt and up to 4000 tokens of an answer, but this "
        "server can give it at most 20 MiB. Set max_tokens to at most 792."
    )


def test_the_refusal_names_the_prompt_as_the_client_does() -> None:
    with pytest.raises(RequestTooLarge, match=r"Shorten the prompt: ") as refused:
        model_memory(20 * MIB).admission.check(prompt_tokens=9000, max_tokens=16, choices=1, prompt_field="prompt")
    assert refused.value.param == "prompt"


def test_the_refusal_names_the_length_of_an_answer_as_the_client_does() -> None:
    with pytest.raises(RequestTooLarge, match=r"Set max_output_tokens to at most 792") as refused:
        model_memory(20 * MIB).admission.check(1000, 4000, 1, "input", "max_output_tokens")
    assert refused.value.param == "max_output_tokens"
