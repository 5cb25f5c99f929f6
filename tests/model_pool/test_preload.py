"""Guesses from histories: values in, values out."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from gateway.model_pool.preload import DOUBT, HORIZON, REMEMBERED, likely_next
from gateway.model_pool.preload_score import PreloadScore
from gateway.model_pool.usage_history import Session

MONDAY = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def session(model_id: str, at: datetime, minutes: float = 5) -> Session:
    return Session(model_id, at.timestamp(), at.timestamp() + 60 * minutes)


def working_days(before: datetime, count: int) -> list[datetime]:
    days = [before - timedelta(days=ago) for ago in range(1, 60)]
    return [day for day in days if day.weekday() < 5][:count]


def test_what_is_used_every_morning_is_likely_in_the_morning() -> None:
    history = [session("coder", day + timedelta(minutes=10)) for day in working_days(MONDAY, 8)]
    history += [session("other", day + timedelta(hours=6)) for day in working_days(MONDAY, 10)]

    (guess,) = likely_next(history, MONDAY, ["coder", "other"])

    assert guess.model_id == "coder"
    assert guess.probability == 8 / (10 + DOUBT)
    assert guess.reason == "it was used between 09:00 and 09:30 on 8 of 10 working days"


def test_working_days_say_nothing_of_weekends() -> None:
    history = [session("coder", day) for day in working_days(MONDAY, 10)]
    assert likely_next(history, MONDAY - timedelta(days=1), ["coder"]) == []
    assert likely_next(history, MONDAY, ["coder"]) != []


def test_a_day_goes_by_the_users_time_zone() -> None:
    """In Sydney it is Monday morning when it is Sunday evening in Greenwich, and Friday when it is Thursday."""
    sydney = timezone(timedelta(hours=11))
    morning = datetime(2026, 3, 2, 9, 0, tzinfo=sydney)
    history = [session("coder", day) for day in working_days(morning, 6)]
    assert likely_next(history, morning, ["coder"])[0].probability == 6 / (6 + DOUBT)
    assert likely_next(history, morning.astimezone(UTC), ["coder"])[0].probability == 1 / (1 + DOUBT)


def test_a_night_goes_on_after_midnight() -> None:
    late = MONDAY.replace(hour=23, minute=50)
    history = [session("coder", day + timedelta(minutes=20)) for day in working_days(late, 4)]  # at ten past twelve
    history += [session("chat", day) for day in working_days(late, 5)]
    guesses = {guess.model_id: guess.reason for guess in likely_next(history, late, ["coder"])}
    assert guesses == {"coder": "it was used between 23:50 and 00:20 on 4 of 5 working days"}


def test_what_follows_the_model_in_use_is_likely_after_it() -> None:
    history = []
    for day in range(1, 7):
        began = MONDAY - timedelta(days=day, hours=day)  # at another hour each time
        history += [session("chat", began), session("embedder", began + timedelta(minutes=8))]
    history.append(session("chat", MONDAY - timedelta(days=8)))
    assert likely_next(history, MONDAY, ["embedder"]) == []

    (guess,) = likely_next([*history, session("chat", MONDAY)], MONDAY + timedelta(minutes=1), ["embedder"])

    assert guess.probability == 6 / (7 + DOUBT)
    assert guess.reason == "it followed chat within 30 minutes 6 of 7 times"


def test_once_is_no_habit() -> None:
    history = [session("coder", working_days(MONDAY, 1)[0])]
    assert all(guess.probability < 0.5 for guess in likely_next(history, MONDAY, ["coder"]))


HISTORIES = st.lists(
    st.builds(
        lambda model, minutes_ago, length: session(model, MONDAY - timedelta(minutes=minutes_ago), length),
        st.sampled_from("abc"),
        st.integers(-2000, 90_000),
        st.integers(0, 300),
    ),
    max_size=60,
)


@given(HISTORIES, st.lists(st.sampled_from("abcd")))
def test_guesses_are_probabilities_of_the_candidates_the_likeliest_first(
    history: list[Session], candidates: list[str]
) -> None:
    guesses = likely_next(history, MONDAY, candidates)
    assert [guess.model_id for guess in guesses] == list(dict.fromkeys(guess.model_id for guess in guesses))
    assert {guess.model_id for guess in guesses} <= set(candidates)
    probabilities = [guess.probability for guess in guesses]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(0 < probability < 1 for probability in probabilities)
    assert all(guess.reason for guess in guesses)
    assert likely_next(list(reversed(history)), MONDAY, candidates) == guesses


@given(HISTORIES, HISTORIES)
def test_the_future_and_the_distant_past_count_nothing(history: list[Session], others: list[Session]) -> None:
    far = REMEMBERED.total_seconds() + 100_000
    ignored = [Session(s.model_id, s.started - 90_000 * 60 - far, s.ended - 90_000 * 60 - far) for s in others]
    ignored += [Session(s.model_id, s.started + 90_001 * 60, s.ended + 90_001 * 60) for s in others]
    assert likely_next([*ignored, *history], MONDAY, "abc") == likely_next(history, MONDAY, "abc")


def test_the_score_counts_what_was_wanted_in_time() -> None:
    assert PreloadScore().hit_rate is None
    score, horizon = PreloadScore(), HORIZON.total_seconds()
    for model in "abcd":
        score.loaded_ahead(model, 1000)
    score.used("x", 1001)
    score.used("a", 1001)
    score.used("a", 1002)
    score.evicted("b")
    score.used("c", 1000 + horizon)
    assert (score.hits, score.misses) == (2, 1)
    score.used("d", 1001 + horizon)
    assert (score.hits, score.misses, score.hit_rate) == (2, 2, 0.5)
