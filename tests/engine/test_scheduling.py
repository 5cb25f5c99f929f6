from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.scheduling import requests_to_start


def test_starts_in_order_while_rows_are_free() -> None:
    assert requests_to_start([1, 1, 1], running_rows=0, max_running=2) == 2
    assert requests_to_start([1, 1], running_rows=2, max_running=2) == 0
    assert requests_to_start([], running_rows=0, max_running=2) == 0


def test_a_wide_request_is_not_overtaken() -> None:
    assert requests_to_start([3, 1], running_rows=2, max_running=4) == 0


@given(st.lists(st.integers(1, 8)), st.integers(0, 8))
def test_never_more_than_fit_and_never_idle(waiting: list[int], running: int) -> None:
    started = requests_to_start(waiting, running, max_running=8)
    assert running + sum(waiting[:started]) <= 8
    if started < len(waiting):
        assert running + sum(waiting[: started + 1]) > 8
