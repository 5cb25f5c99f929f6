"""How much each key may use: token buckets, which refill evenly and hold at most one period's worth.

Pure: every call is told the time, in seconds that only go up. What an answer will cost is estimated before it begins
and corrected when it is over; a bucket that was overdrawn so owes the rest, and nobody is served from it until it is
paid back.
"""

from dataclasses import dataclass, field
from math import ceil

from gateway.errors import RateLimited
from gateway.security.api_keys import KeySettings

MINUTE = 60.0
DAY = 86400.0


@dataclass(slots=True)
class Bucket:
    """`limit` units each `period_seconds`; a limit of 0 is none."""

    limit: int
    period_seconds: float
    level: float = field(init=False)
    at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.level = float(self.limit)

    def refill(self, now: float) -> None:
        if self.at is not None:
            self.level = min(self.limit, self.level + (now - self.at) * self.limit / self.period_seconds)
        self.at = now

    def wait_seconds(self, amount: float) -> float:
        """Until that much is there; an amount that never is waits for a full bucket."""
        if not self.limit:
            return 0.0
        missing = min(amount, self.limit) - self.level
        return max(0.0, missing * self.period_seconds / self.limit)

    def take(self, amount: float) -> None:
        if self.limit:
            self.level = min(self.limit, self.level - amount)

    @property
    def remaining(self) -> int:
        return max(0, int(self.level))

    @property
    def reset_seconds(self) -> float:
        """Until it is full."""
        return self.wait_seconds(self.limit)


class KeyLimits:
    """The buckets of one key. Belongs to the event loop."""

    def __init__(self, settings: KeySettings) -> None:
        self.requests = Bucket(settings.requests_per_minute, MINUTE)
        self.tokens = Bucket(settings.tokens_per_minute, MINUTE)
        self.daily = Bucket(settings.tokens_per_day, DAY)

    def admit(self, estimated_tokens: int, now: float) -> None:
        """Takes a request's share out of all buckets, or out of none. Raises `RateLimited`."""
        wanted = (
            (self.requests, 1, "requests a minute"),
            (self.tokens, estimated_tokens, "tokens a minute"),
            (self.daily, estimated_tokens, "tokens a day"),
        )
        for bucket, amount, what in wanted:
            bucket.refill(now)
            if seconds := bucket.wait_seconds(amount):
                raise RateLimited(bucket.limit, what, max(1, ceil(seconds)))
        for bucket, amount, _ in wanted:
            bucket.take(amount)

    def correct(self, estimated_tokens: int, used_tokens: int) -> None:
        """Once it is known what a request took."""
        for bucket in (self.tokens, self.daily):
            bucket.take(used_tokens - estimated_tokens)

    def headers(self, now: float) -> dict[str, str]:
        """As OpenAI spells them (API reference, "Rate limits in headers"). Those on tokens are of the tighter limit."""
        told = {"requests": self.requests, "tokens": self._tighter()}
        headers = {}
        for name, bucket in told.items():
            if bucket.limit:
                bucket.refill(now)
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(bucket.remaining)
                headers[f"x-ratelimit-reset-{name}"] = duration(bucket.reset_seconds)
        return headers

    def _tighter(self) -> Bucket:
        limited = [bucket for bucket in (self.tokens, self.daily) if bucket.limit]
        return min(limited, key=lambda bucket: bucket.level, default=self.tokens)


def duration(seconds: float) -> str:
    """As OpenAI writes it: 850ms, 12s, 6m0s, 23h5m10s."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    hours, rest = divmod(ceil(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{left}s"
