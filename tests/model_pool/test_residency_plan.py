"""What must go for a model to fit: examples, and what holds for any memory."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.process_memory import MemoryRoom
from gateway.model_pool.residency_plan import AwaitEnds, Drain, Evict, Fits, NoRoom, Plan, Resident, plan_room

MIB = 2**20


def plan(needed: int, free: int, budget: int, residents: list[Resident], passing: int = 0) -> Plan:
    return plan_room(needed, MemoryRoom(budget, free, passing), residents)


def resident(model_id: str, size: int, **options: object) -> Resident:
    return Resident(model_id, size, **options)  # type: ignore[arg-type]


def test_the_least_recently_used_goes_first() -> None:
    models = [resident("a", 40, last_used=3), resident("b", 40, last_used=1), resident("c", 20, last_used=2)]
    assert plan(30, 0, 100, models) == Evict(("b",))
    assert plan(30, 30, 130, models) == Fits()
    assert plan(50, 0, 100, models) == Evict(("b", "c"))


def test_no_more_go_than_must() -> None:
    models = [resident("small", 10, last_used=1), resident("large", 80, last_used=2)]
    assert plan(70, 10, 100, models) == Evict(("large",))


def test_who_serves_is_drained_longest_turn_first_and_who_is_pinned_stays() -> None:
    serving = [resident("a", 50, leases=1, loaded_at=2), resident("b", 50, leases=3, loaded_at=1)]
    assert plan(40, 0, 100, serving) == Drain(("b",))
    pinned = [resident("a", 50, leases=1, pinned=True), resident("b", 50, leases=3, pinned=True)]
    assert plan(40, 0, 100, pinned) == NoRoom(40, 100, (("a", 50), ("b", 50)))


def test_memory_of_running_requests_is_waited_for() -> None:
    """30 of 100 are caches of requests to a pinned model."""
    pinned = resident("a", 50, leases=1, pinned=True)
    assert plan(40, 20, 100, [pinned], passing=30) == AwaitEnds(("a",))
    assert plan(40, 20, 100, [pinned], passing=10) == NoRoom(40, 100, (("a", 50),))


def test_nobody_is_waited_for_who_serves_nobody() -> None:
    """Work space is not given back."""
    assert plan(75, 70, 160, [resident("b", 80, pinned=True)]) == NoRoom(75, 160, (("b", 80),))


def test_what_never_fits_says_so_in_numbers() -> None:
    told = plan(300 * MIB, 100 * MIB, 200 * MIB, [resident("a", 100 * MIB, pinned=True)])
    assert "needs 300 MiB of the memory budget of 200 MiB" in str(told)
    told = plan(150 * MIB, 100 * MIB, 200 * MIB, [resident("a", 100 * MIB, pinned=True)])
    assert "these are pinned: a (100 MiB)" in str(told)


RESIDENTS = st.lists(
    st.builds(
        Resident,
        st.uuids().map(str),
        st.integers(1, 100),
        st.integers(0, 3),
        st.booleans(),
        st.floats(0, 100),
        st.floats(0, 100),
    ),
    max_size=6,
    unique_by=lambda model: model.model_id,
)


@given(RESIDENTS, st.integers(0, 60), st.integers(-20, 100), st.integers(1, 400))
def test_a_plan_is_enough_and_touches_nobody_it_must_not(
    residents: list[Resident], passing: int, slack: int, needed: int
) -> None:
    """`passing` are bytes of running requests, which are there only if somebody serves."""
    passing = passing if any(model.leases for model in residents) else 0
    weights = sum(model.weight_bytes for model in residents)
    budget = max(1, weights + passing + slack)
    free = budget - weights - passing
    by_id = {model.model_id: model for model in residents}
    match plan(needed, free, budget, residents, passing):
        case Fits():
            assert needed <= free
        case Evict(chosen):
            assert free + sum(by_id[each].weight_bytes for each in chosen) >= needed
            assert all(by_id[each].may_go for each in chosen)
            for each in chosen:
                assert free + sum(by_id[other].weight_bytes for other in chosen if other != each) < needed
        case AwaitEnds(serving):
            assert set(serving) == {model.model_id for model in residents if model.leases}
            idle = sum(model.weight_bytes for model in residents if model.may_go)
            assert free + idle < needed <= free + passing + idle
        case Drain(chosen):
            assert all(by_id[each].leases and not by_id[each].pinned for each in chosen)
            idle = sum(model.weight_bytes for model in residents if model.may_go)
            assert free + passing + idle + sum(by_id[each].weight_bytes for each in chosen) >= needed
        case NoRoom():
            movable = sum(model.weight_bytes for model in residents if not model.pinned)
            assert free + passing + movable < needed
