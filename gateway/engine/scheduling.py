"""Who goes first: which requests take rows of the batch, and whose prompt is computed next.

Plain decisions from values to values; the caller brings the time. A step asks, in this order:
`FairShares.order` (all that wait or are being computed), `jobs_to_start`, `who_joins`, `form_cohort`, `next_cohort`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from gateway.generation.request import Priority

SMALLEST_SHARED_BATCH = 4
"""A batch with fewer rows keeps none back for interactive work."""

MOST_PASSED_OVER = 4
"""Chunks of other prompts that a prompt lets pass, so each advances at least about every fifth chunk."""

OVERDUE = -1
"""Ranks before every class."""

Key = tuple[int, int, float, int]
"""Rank, virtual start, arrival, ticket: the smallest goes first."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request that waits for its place in the batch, or whose prompt is being computed."""

    ticket: int
    priority: Priority
    session: str  # who shares fairly: one session or API key
    rows: int  # of the batch that it will take (choices)
    prompt_tokens: int  # of its prompt, not computed yet
    since: float  # seconds, when it was submitted, on any monotonic clock
    started: bool = False  # it has its rows; its prompt is being computed


@dataclass(frozen=True, slots=True)
class Limits:
    max_rows: int
    ageing_seconds: float  # above 0: so long a wait ends smaller jobs' right to overtake one that does not fit

    def rows_from(self, priority: Priority) -> int:
        """Rows that this class and those below it may hold together.

        Less urgent work leaves rows free, so that an interactive request finds one at once.
        """
        if self.max_rows < SMALLEST_SHARED_BATCH or priority is Priority.INTERACTIVE:
            return self.max_rows
        return self.max_rows - 1 if priority is Priority.NORMAL else self.max_rows * 3 // 4


@dataclass(slots=True)
class _Account:
    served: int  # tokens: the session's virtual time
    active: float = 0.0  # seconds, when it last had work
    oldest: int | None = None  # ticket of its oldest waiting job
    oldest_since: float = 0.0  # seconds, since when that one is the oldest

    def note_oldest(self, jobs: Iterable[Job], now: float) -> None:
        waiting = ((job.since, job.ticket) for job in jobs if not job.started)
        since, ticket = min(waiting, default=(now, None))
        if self.oldest != ticket:
            self.oldest_since = since if self.oldest is None else now
            self.oldest = ticket


class FairShares:
    """Start-time fair queueing: within a class, whoever was served least goes first. Belongs to the generation loop.

    - A session's account counts the tokens computed for it. One that comes new, or back after a pause, starts no lower
      than the least served of those with work: idling earns nothing. What it is ahead is forgotten when it has been
      idle for `ageing_seconds` or when the others have caught up, so accounts do not pile up.
    - A session's oldest waiting job rises by one class for every `ageing_seconds` of being that, and at last before
      all classes; among those that have come so far, time decides alone. Else a stream of urgent work, or of new
      sessions, each of which starts lowest, would starve others. Only the oldest rises, and the next one's time starts
      when it has gone: a long queue must not push its way past other sessions.
    - A prompt that is being computed does not age (`next_cohort` keeps it moving).
    """

    def __init__(self, ageing_seconds: float) -> None:
        self._ageing_seconds = ageing_seconds
        self._accounts: dict[str, _Account] = {}
        self._charged: set[str] = set()  # since the last `order`
        self._least_served = 0

    def charge(self, session: str, tokens: int) -> None:
        """Notes work done for a session: prompt tokens computed, tokens generated."""
        if session not in self._accounts:
            self._accounts[session] = _Account(self._least_served)
        self._accounts[session].served += tokens
        self._charged.add(session)

    def order(self, jobs: Iterable[Job], now: float) -> list[Job]:
        """The jobs, best first.

        Call it once a step with every job that waits or is being computed: who is in none of these calls and is not
        charged between two of them counts as idle.
        """
        by_session: dict[str, list[Job]] = {}
        for job in jobs:
            by_session.setdefault(job.session, []).append(job)
        self._open_and_close_accounts(by_session, now)
        keys: dict[int, Key] = {}
        for session, own in by_session.items():
            keys |= self._keys(self._accounts[session], own, now)
        return sorted(chain.from_iterable(by_session.values()), key=lambda job: keys[job.ticket])

    def _open_and_close_accounts(self, with_jobs: Collection[str], now: float) -> None:
        active = self._charged.union(with_jobs)
        known = [account.served for session in active if (account := self._accounts.get(session))]
        self._least_served = min(known, default=self._least_served)
        for session in active:
            self._accounts.setdefault(session, _Account(self._least_served)).active = now
        for session in self._accounts.keys() - active:
            account = self._accounts[session]
            if account.served <= self._least_served or now - account.active >= self._ageing_seconds:
                del self._accounts[session]
        self._charged.clear()

    def _keys(self, account: _Account, own: Sequence[Job], now: float) -> dict[int, Key]:
        """Places one session's jobs, by ticket.

        A job's virtual start counts the prompts of those before it as served, so that a session's second job competes
        with another session's first even when both are chosen in one step.
        """
        account.note_oldest(own, now)
        keys: dict[int, Key] = {}
        start = account.served
        for _, rank, since, ticket, job in sorted(
            (not job.started, self._rank(job, account, now), job.since, job.ticket, job) for job in own
        ):
            keys[ticket] = (rank, 0, account.oldest_since, ticket) if rank == OVERDUE else (rank, start, since, ticket)
            start += job.prompt_tokens
        return keys

    def _rank(self, job: Job, account: _Account, now: float) -> int:
        if job.ticket != account.oldest:
            return job.priority
        return max(OVERDUE, job.priority - int((now - account.oldest_since) / self._ageing_seconds))


def jobs_to_start(
    ordered: Iterable[Job], running: Mapping[Priority, int], limits: Limits, now: float, fits: Callable[[Job], bool]
) -> list[Job]:
    """Which of the waiting jobs start now, in their order.

    `running` is the rows in use by class. `fits` is asked last, at most once for each job, and its True is a promise
    kept: the job is in the result, so it may book the memory as it answers.

    No row stays empty while a job that may take it waits, with one exception: a job that does not fit may be overtaken
    only until it has waited `ageing_seconds`. Then it holds back all behind it that compete for what it lacks, which is
    everything (rows, memory) or its class's share of the rows. A job wider than a limit starts when nothing else
    counts against that limit.
    """
    in_use = {priority: running.get(priority, 0) for priority in Priority}
    held_from = len(Priority)  # jobs of this class and those below are held back
    started = []
    for job in ordered:
        if job.priority >= held_from:
            continue
        lacks = _class_without_room(job, in_use, limits)
        if lacks is None and fits(job):
            in_use[job.priority] += job.rows
            started.append(job)
        elif now - job.since >= limits.ageing_seconds:
            held_from = lacks or Priority.INTERACTIVE
    return started


def _class_without_room(job: Job, in_use: Mapping[Priority, int], limits: Limits) -> Priority | None:
    """The class whose share of the rows, with those below it, has no room for the job; None if all have."""
    for priority in reversed(Priority):
        used = sum(rows for held_by, rows in in_use.items() if held_by >= priority)
        if priority <= job.priority and used and used + job.rows > limits.rows_from(priority):
            return priority
    return None


def form_cohort(started: Sequence[Job], max_rows: int, max_prompt_tokens: int) -> list[Job]:
    """The first of these jobs, and those whose prompts may be computed together with its own (see `who_joins`).

    Call it again with the others until none is left.
    """
    first = started[0]
    rows_left = max_rows - first.rows
    return [first, *who_joins(first.priority, first.prompt_tokens, started[1:], rows_left, max_prompt_tokens)]


def who_joins(
    priority: Priority, tokens_left: int, jobs: Iterable[Job], max_rows: int, max_prompt_tokens: int
) -> list[Job]:
    """Those of the jobs, in order, that may be computed with a cohort of this class and so many tokens to come.

    All of them advance by the same chunk, padded to the longest, so what they have to come must be short and within a
    factor of two of the cohort's.
    """
    joining: list[Job] = []
    longest = min(2 * tokens_left, max_prompt_tokens)
    if tokens_left > max_prompt_tokens:
        return joining
    for job in jobs:
        alike = job.priority == priority and tokens_left <= 2 * job.prompt_tokens and job.prompt_tokens <= longest
        if alike and job.rows <= max_rows:
            joining.append(job)
            max_rows -= job.rows
    return joining


@dataclass(frozen=True, slots=True)
class Prefilling:
    """A cohort whose prompts are being computed."""

    tickets: Collection[int]
    passed_over: int  # chunks that others computed since its own last one, or since it started


def next_cohort(cohorts: Sequence[Prefilling], ordered: Iterable[Job]) -> int:
    """Which cohort (its index) computes a chunk now: that of the best job, so short work overtakes a long prompt.

    One that has been passed over `MOST_PASSED_OVER` times goes first: with n cohorts, none is ever passed over more
    than `MOST_PASSED_OVER` + n - 1 times in a row.
    """
    place = {job.ticket: place for place, job in enumerate(ordered)}

    def turn(index: int) -> tuple[int, int]:
        cohort = cohorts[index]
        overtaken = cohort.passed_over if cohort.passed_over >= MOST_PASSED_OVER else 0
        return -overtaken, min(place[ticket] for ticket in cohort.tickets)

    return min(range(len(cohorts)), key=turn)
