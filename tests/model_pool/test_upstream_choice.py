"""Who gets a request: plain values in, a name out."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.model_pool.upstream_choice import (
    AFFINITY_SLACK,
    FIRST_REST_SECONDS,
    MOST_REST_SECONDS,
    Standing,
    choose,
    rest_seconds,
)

IDLE = Standing(outstanding=0, max_concurrent=0, up=True, rests_until=0)

standing = st.builds(
    Standing,
    outstanding=st.integers(0, 9),
    max_concurrent=st.integers(0, 5),
    up=st.booleans(),
    rests_until=st.floats(0, 20),
)
fleet = st.dictionaries(st.sampled_from("abcdef"), standing)


def busy(outstanding: int, **others: int) -> Standing:
    return Standing(outstanding, others.get("of", 0), up=True, rests_until=others.get("rests_until", 0))


def test_the_least_busy_is_asked() -> None:
    assert choose({"a": busy(2), "b": busy(1), "c": busy(3)}, 0, "s", None) == "b"


def test_a_session_stays_where_it_was_within_limits() -> None:
    assert choose({"a": busy(AFFINITY_SLACK), "b": IDLE}, 0, "s", "a") == "a"
    assert choose({"a": busy(AFFINITY_SLACK + 1), "b": IDLE}, 0, "s", "a") == "b"
    assert choose({"a": busy(1, of=1), "b": IDLE}, 0, "s", "a") == "b"
    assert choose({"b": IDLE}, 0, "s", "a") == "b"


def test_who_failed_lately_is_asked_last() -> None:
    resting = {"a": busy(0, rests_until=10), "b": busy(5)}
    assert choose(resting, 9, "s", "a") == "b"
    assert choose(resting, 10, "s", "a") == "a"
    assert choose({"a": resting["a"], "b": busy(5, of=5)}, 9, "s", None) == "a"


def test_nobody_is_asked_who_is_down_or_full() -> None:
    down = Standing(0, 0, up=False, rests_until=0)
    assert choose({"a": down, "b": busy(3, of=3)}, 0, "s", "a") is None
    assert choose({}, 0, "s", None) is None


def test_idle_servers_share_the_sessions_and_each_keeps_its_own() -> None:
    """Also over a restart of the gateway, which remembers no session."""
    servers = dict.fromkeys("abcd", IDLE)
    chosen = {f"session {n}": choose(servers, 0, f"session {n}", None) for n in range(400)}
    assert min(Counter(chosen.values()).values()) > 50
    fewer = dict.fromkeys("abc", IDLE)
    moved = [session for session, name in chosen.items() if choose(fewer, 0, session, None) != name]
    assert all(chosen[session] == "d" for session in moved)


@given(fleet, st.floats(0, 20), st.text(), st.sampled_from("abcdef"))
def test_whoever_is_chosen_can_take_it(servers: dict[str, Standing], now: float, session: str, home: str) -> None:
    fit = {name: one for name, one in servers.items() if one.up and one.has_room}
    chosen = choose(servers, now, session, home)
    assert (chosen is None) == (not fit)
    if chosen is not None:
        rested = [one for one in fit.values() if one.rests_until <= now]
        assert not rested or fit[chosen] in rested
        slack = AFFINITY_SLACK if chosen == home else 0
        assert fit[chosen].outstanding <= min(one.outstanding for one in rested or fit.values()) + slack


def test_rests_grow_to_a_limit() -> None:
    rests = [rest_seconds(failures) for failures in range(1, 2000)]
    assert rests[:3] == [FIRST_REST_SECONDS, 2 * FIRST_REST_SECONDS, 4 * FIRST_REST_SECONDS]
    assert rests == sorted(rests)
    assert rests[-1] == MOST_REST_SECONDS
