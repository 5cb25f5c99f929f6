"""Token buckets, against what they promise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RateLimited
from gateway.security.api_keys import KeySettings
from gateway.security.limits import MINUTE, KeyLimits, duration


def test_a_request_too_many_is_told_when_to_come_again() -> None:
    limits = KeyLimits(KeySettings("k", requests_per_minute=2))
    limits.admit(0, now=100.0)
    limits.admit(0, now=100.0)
    with pytest.raises(RateLimited, match="2 requests a minute") as refused:
        limits.admit(0, now=100.0)
    assert refused.value.retry_after_seconds == 30
    limits.admit(0, now=130.0)


def test_what_an_answer_took_more_is_owed() -> None:
    limits = KeyLimits(KeySettings("k", tokens_per_minute=600))
    limits.admit(10, now=0.0)
    limits.correct(10, 1200)
    with pytest.raises(RateLimited) as refused:
        limits.admit(1, now=0.0)
    assert refused.value.retry_after_seconds == 61
    limits.admit(1, now=61.0)


def test_a_refused_request_takes_nothing_from_any_bucket() -> None:
    limits = KeyLimits(KeySettings("k", requests_per_minute=5, tokens_per_day=10))
    limits.admit(10, now=0.0)
    with pytest.raises(RateLimited, match="tokens a day"):
        limits.admit(1, now=0.0)
    assert limits.requests.remaining == 4


def test_a_request_over_the_whole_limit_waits_for_a_full_bucket() -> None:
    limits = KeyLimits(KeySettings("k", tokens_per_minute=100))
    limits.admit(5000, now=0.0)
    with pytest.raises(RateLimited):
        limits.admit(1, now=0.0)


def test_headers_are_as_openai_spells_them() -> None:
    limits = KeyLimits(KeySettings("k", requests_per_minute=60, tokens_per_minute=600, tokens_per_day=100))
    limits.admit(50, now=0.0)
    assert limits.headers(now=0.0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "50",
        "x-ratelimit-reset-tokens": "12h0m0s",
    }
    assert KeyLimits(KeySettings("k")).headers(0.0) == {}


@pytest.mark.parametrize(("seconds", "text"), [(0, "0ms"), (0.85, "850ms"), (12, "12s"), (360, "6m0s")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.integers(1, 50), st.lists(st.tuples(st.floats(0, 30), st.integers(0, 100)), max_size=60))
def test_never_more_than_the_limit_and_its_refill(limit: int, asks: list[tuple[float, int]]) -> None:
    """Whatever comes when: what is served is at most a full bucket, the refill, and one request that is larger."""
    limits, now, served = KeyLimits(KeySettings("k", tokens_per_minute=limit)), 0.0, 0
    for pause, tokens in asks:
        now += pause
        try:
            limits.admit(tokens, now)
        except RateLimited:
            continue
        served += tokens
    assert served <= limit + limit * now / MINUTE + 100
