"""Which model will be wanted next, guessed from when models were used. Pure, and each guess says why.

Two kinds of evidence, and the stronger one counts: what followed the models that are used now, and what was used at
this time of day. Both are shares of what was seen, kept low while little was seen.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

from gateway.model_pool.usage_history import Session

HORIZON = timedelta(minutes=30)
"""A guess is about the time from now until then."""

REMEMBERED = timedelta(days=28)
"""What is older counts no more: habits change."""

DOUBT = 2
"""Occasions without the model that are taken for seen before anything was."""


class Likely(NamedTuple):
    """The `probability` that the model is wanted within `HORIZON`, and the `reason` in words."""

    model_id: str
    probability: float
    reason: str


def likely_next(history: Sequence[Session], now: datetime, candidates: Collection[str]) -> list[Likely]:
    """The `candidates` of which anything is to be expected, the likeliest first.

    `now` has the time zone by which the users' days go. Sessions may be in any order; those in the future are ignored.
    """
    recent = [s for s in history if 0 <= now.timestamp() - s.started <= REMEMBERED.total_seconds()]
    guesses = [
        max(
            (_after_others(recent, now, model_id), _at_this_time(recent, now, model_id)),
            key=lambda guess: guess.probability,
        )
        for model_id in dict.fromkeys(candidates)
    ]
    return sorted(
        (guess for guess in guesses if guess.probability), key=lambda guess: (-guess.probability, guess.model_id)
    )


def _after_others(history: Sequence[Session], now: datetime, model_id: str) -> Likely:
    """By what followed the models whose use began lately."""
    horizon = HORIZON.total_seconds()
    starts = sorted(session.started for session in history if session.model_id == model_id)
    best = Likely(model_id, 0.0, "")
    lately = {s.model_id for s in history if now.timestamp() - s.started <= horizon and s.model_id != model_id}
    for other in sorted(lately):
        # the last half hour is what is to be foretold, and says nothing yet
        earlier = [s.started for s in history if s.model_id == other and now.timestamp() - s.started > horizon]
        followed = sum(bisect_right(starts, began + horizon) > bisect_left(starts, began) for began in earlier)
        probability = followed / (len(earlier) + DOUBT)
        if probability > best.probability:
            best = Likely(
                model_id, probability, f"it followed {other} within {_minutes()} {followed} of {len(earlier)} times"
            )
    return best


def _at_this_time(history: Sequence[Session], now: datetime, model_id: str) -> Likely:
    """By the days of the same kind on which any model was used before today."""
    weekend = _is_weekend(now)
    days: set[date] = set()
    days_with_model: set[date] = set()
    for session in history:
        day = datetime.fromtimestamp(session.started, now.tzinfo).date()
        days.add(day)
        if session.model_id == model_id:
            # a session or the time in question may go beyond midnight
            around = (day + timedelta(days=shift) for shift in (-1, 0, 1))
            days_with_model |= {near for near in around if _overlaps(session, datetime.combine(near, now.timetz()))}
    days = {day for day in days if day < now.date() and _is_weekend(day) == weekend}
    days_with_model &= days
    kind = "weekend days" if weekend else "working days"
    until = now + HORIZON
    return Likely(
        model_id,
        len(days_with_model) / (len(days) + DOUBT),
        f"it was used between {now:%H:%M} and {until:%H:%M} on {len(days_with_model)} of {len(days)} {kind}",
    )


def _overlaps(session: Session, began: datetime) -> bool:
    """Whether the model was used within `HORIZON` of `began`."""
    start = began.timestamp()
    return session.started <= start + HORIZON.total_seconds() and session.ended >= start


def _is_weekend(day: date) -> bool:
    return day.weekday() >= 5


def _minutes() -> str:
    return f"{HORIZON.total_seconds() / 60:.0f} minutes"
