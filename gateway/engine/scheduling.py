"""Which waiting request starts next: plain decisions, no clock and no mlx."""

from collections.abc import Iterable


def requests_to_start(waiting_rows: Iterable[int], running_rows: int, max_running: int) -> int:
    """How many requests at the head of the queue start now.

    `waiting_rows` gives the rows (choices) of each waiting request, in order of arrival. First come, first
    served: a request that does not fit holds back those behind it, so that a large one is never overtaken for
    ever.
    """
    free = max_running - running_rows
    started = 0
    for rows in waiting_rows:
        if rows > free:
            break
        free -= rows
        started += 1
    return started
