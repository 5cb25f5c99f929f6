"""When what failed may be tried again: soon at first, then after twice as long each time."""

import math
import time

FIRST_WAIT_SECONDS = 1.0
MOST_WAIT_SECONDS = 60.0
CALM_SECONDS = 60.0
"""What held for so long starts anew: its next failure is the first one."""


class Retry:
    """Back-off of one model. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self._wait = 0.0
        self._not_before = 0.0
        self._held_since: float | None = None

    @property
    def seconds_left(self) -> float:
        """Until it may be tried again; 0 if it may be."""
        return max(0.0, self._not_before - time.monotonic())

    def failed(self, *, at_once: bool = False) -> None:
        """The first failure after a calm time may be `at_once` tried again."""
        now = time.monotonic()
        if self._held_since is not None and now - self._held_since > CALM_SECONDS:
            self._wait = 0.0
        self._held_since = None
        wait = self._wait if at_once else self._wait or FIRST_WAIT_SECONDS
        self._not_before = now + wait
        self._wait = min(MOST_WAIT_SECONDS, 2 * wait or FIRST_WAIT_SECONDS)

    def worked(self) -> None:
        """For as long as nothing fails."""
        self._held_since = time.monotonic()

    def never(self) -> None:
        """Not by itself."""
        self._not_before = math.inf

    def allow(self) -> None:
        """Somebody knows better: it may be tried now."""
        self._not_before = 0.0
