"""The scheduling decisions, one by one and as a whole: thousands of requests against a simulated clock."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.scheduling import (
    MOST_PASSED_OVER,
    FairShares,
    Job,
    Limits,
    Prefilling,
    form_cohort,
    jobs_to_start,
    next_cohort,
    who_joins,
)
from gateway.engine.step_cost import StepCost, chunk_tokens
from gateway.generation.request import Priority

INTERACTIVE, NORMAL, BACKGROUND = Priority
LIMITS = Limits(max_rows=8, ageing_seconds=10)
IDLE = dict.fromkeys(Priority, 0)


def job(
    ticket: int,
    priority: Priority = NORMAL,
    session: str = "a",
    rows: int = 1,
    prompt_tokens: int = 100,
    since: float = 0.0,
    started: bool = False,
) -> Job:
    return Job(ticket, priority, session, rows, prompt_tokens, since, started)


def tickets(jobs: Sequence[Job]) -> list[int]:
    return [each.ticket for each in jobs]


def always(_: Job) -> bool:
    return True


# --- FairShares


def test_class_then_least_served_then_arrival_then_ticket() -> None:
    shares = FairShares(ageing_seconds=10)
    shares.order([job(0, session="a"), job(1, session="b")], now=0)
    shares.charge("a", 500)
    waiting = [
        job(5, NORMAL, "a", since=0),
        job(4, NORMAL, "b", since=2),
        job(3, NORMAL, "c", since=1),
        job(6, NORMAL, "d", since=1),
        job(2, BACKGROUND, "b", since=0),
        job(1, INTERACTIVE, "a", since=3),
    ]
    assert tickets(shares.order(waiting, now=3)) == [1, 3, 6, 4, 5, 2]


def test_a_wait_lifts_a_job_by_one_class_at_a_time() -> None:
    def place_at(now: float) -> int:
        fresh = [job(1, INTERACTIVE, "b", since=now), job(2, NORMAL, "c", since=now)]
        return tickets(FairShares(ageing_seconds=10).order([*fresh, job(3, BACKGROUND, since=0)], now)).index(3)

    assert [place_at(9), place_at(11), place_at(21)] == [2, 1, 0]


def test_only_a_sessions_oldest_job_rises() -> None:
    flood = [job(ticket, NORMAL, "flood", since=0) for ticket in range(30)]
    shares = FairShares(ageing_seconds=10)
    shares.order(flood, now=0)
    single = job(99, NORMAL, "single", since=15)
    assert tickets(shares.order([*flood, single], now=15))[:2] == [0, 99]
    assert tickets(shares.order([*flood[1:], single], now=15))[:2] == [1, 99]  # by arrival, not by age
    shares.charge("flood", 1)
    assert tickets(shares.order([*flood[1:], single], now=16))[0] == 99


def test_among_those_that_rose_before_all_classes_time_decides_alone() -> None:
    jobs = [job(1, NORMAL, "served", since=0), job(2, INTERACTIVE, "b", since=12), job(3, BACKGROUND, "c", since=1)]
    shares = FairShares(ageing_seconds=10)
    shares.order(jobs, now=12)
    shares.charge("served", 10_000)
    assert tickets(shares.order(jobs, now=40)) == [1, 3, 2]


def test_a_prompt_that_is_computed_does_not_age() -> None:
    jobs = [job(1, BACKGROUND, "a", since=0, started=True), job(2, INTERACTIVE, "b", since=1000, started=True)]
    assert tickets(FairShares(ageing_seconds=10).order(jobs, now=1000)) == [2, 1]


def test_idling_earns_nothing() -> None:
    shares = FairShares(ageing_seconds=10)
    shares.order([job(1, session="idle"), job(2, session="busy")], now=0)
    for second in range(1, 100):
        shares.charge("busy", 100)
        shares.order([job(2 + second, session="busy", since=second)], now=second)
    ordered = shares.order([job(900, session="idle", since=99.5), job(101, session="busy", since=99)], now=100)
    assert tickets(ordered) == [101, 900]  # as if both had been served alike: by arrival


def test_a_session_that_only_decodes_is_not_idle() -> None:
    shares = FairShares(ageing_seconds=10)
    shares.order([job(1, session="a")], now=0)
    for second in range(1, 5):
        shares.charge("a", 100)
        shares.order([], now=second)
    shares.charge("a", 100)
    shares.order([job(3, session="new", since=5)], now=5)
    assert tickets(shares.order([job(2, session="a", since=4), job(3, session="new", since=5)], now=6)) == [2, 3]


def test_a_short_pause_does_not_forgive_what_was_served() -> None:
    shares = FairShares(ageing_seconds=10)
    shares.order([job(1, session="a"), job(2, session="b")], now=0)
    shares.charge("a", 1000)
    shares.order([job(2, session="b")], now=1)
    shares.order([job(2, session="b")], now=2)
    assert tickets(shares.order([job(3, session="a", since=2), job(4, session="b", since=3)], now=3)) == [4, 3]


def test_one_sessions_second_job_is_behind_another_sessions_first() -> None:
    flood = [job(ticket, session="a") for ticket in range(4)]
    ordered = FairShares(ageing_seconds=10).order([*flood, job(9, session="b", since=1)], now=1)
    assert tickets(ordered) == [0, 9, 1, 2, 3]


def test_accounts_do_not_pile_up() -> None:
    shares = FairShares(ageing_seconds=10)
    waits_for_ever = job(0, BACKGROUND, "patient")
    for number in range(5000):  # each is served once and never seen again
        shares.charge(f"session {number}", 100)
        shares.order([waits_for_ever, job(number + 1, session=f"session {number}", since=number)], now=number)
    assert len(shares._accounts) < 20


# --- jobs_to_start

jobs_waiting = st.lists(
    st.builds(
        job,
        ticket=st.just(0),
        priority=st.sampled_from(Priority),
        session=st.sampled_from("abc"),
        rows=st.integers(1, 4),
        since=st.floats(0, 30),
    ),
    max_size=12,
).map(lambda jobs: [replace(each, ticket=number) for number, each in enumerate(jobs)])


def held_rows(running: dict[Priority, int], lowest_first: Priority) -> int:
    return sum(rows for priority, rows in running.items() if priority >= lowest_first)


def room_for(job: Job, running: dict[Priority, int], limits: Limits) -> bool:
    """What the rules say, in other words than the code's."""
    rows = {NORMAL: held_rows(running, NORMAL), BACKGROUND: running[BACKGROUND]}
    if limits.max_rows >= 4 and job.priority is BACKGROUND and rows[BACKGROUND] + job.rows > limits.max_rows * 0.75:
        return False
    if limits.max_rows >= 4 and job.priority is not INTERACTIVE and rows[NORMAL] + job.rows > limits.max_rows - 1:
        return False
    return sum(running.values()) + job.rows <= limits.max_rows


@given(
    waiting=jobs_waiting,
    max_rows=st.integers(1, 12),
    running=st.fixed_dictionaries({priority: st.integers(0, 4) for priority in Priority}),
    memory=st.integers(0, 12),
)
def test_starts_all_it_may_and_no_more(
    waiting: list[Job], max_rows: int, running: dict[Priority, int], memory: int
) -> None:
    limits = Limits(max_rows, ageing_seconds=10)
    widest = max_rows * 3 // 4 if max_rows >= 4 else max_rows
    waiting = [each for each in waiting if each.rows <= widest]
    rows = {each.ticket: each.rows for each in waiting}
    booked: list[int] = []

    def fits(asked: Job) -> bool:
        if sum(rows[ticket] for ticket in booked) + asked.rows > memory:
            return False
        booked.append(asked.ticket)
        return True

    started = jobs_to_start(waiting, running, limits, 30, fits)
    assert tickets(started) == booked == sorted(booked)

    after = running.copy()
    for each in started:
        assert room_for(each, after, limits)
        after[each.priority] += each.rows
    left = [each for each in waiting if each not in started]
    for number, each in enumerate(left):
        memory_left = memory - sum(rows[ticket] for ticket in booked)
        may_start = room_for(each, after, limits) and each.rows <= memory_left
        held_back = any(before.since <= 20 and before.ticket < each.ticket for before in left[:number])
        assert held_back or not may_start


def test_a_smaller_job_overtakes_one_that_does_not_fit_until_that_has_waited_long() -> None:
    waiting = [job(1, rows=4, since=0), job(2, rows=1, since=5)]
    running = {**IDLE, INTERACTIVE: 5}
    assert tickets(jobs_to_start(waiting, running, LIMITS, 9, always)) == [2]
    assert tickets(jobs_to_start(waiting, running, LIMITS, 10, always)) == []


def test_who_lacks_memory_holds_back_others_after_a_long_wait() -> None:
    waiting = [job(1, since=0), job(2, INTERACTIVE, since=5)]
    assert tickets(jobs_to_start(waiting, IDLE, LIMITS, 9, lambda asked: asked.ticket == 2)) == [2]
    assert tickets(jobs_to_start(waiting, IDLE, LIMITS, 10, lambda asked: asked.ticket == 2)) == []


def test_an_interactive_request_finds_a_row_however_much_aged_work_waits() -> None:
    backlog = [job(ticket, BACKGROUND if ticket % 2 else NORMAL, since=0) for ticket in range(20)]
    waiting = [*backlog, job(99, INTERACTIVE, since=100)]
    started = jobs_to_start(waiting, IDLE, LIMITS, 100, always)
    assert len(started) == 8
    assert tickets(started)[-1] == 99
    assert len(jobs_to_start([job(n, BACKGROUND) for n in range(20)], IDLE, LIMITS, 100, always)) == 6


def test_who_lacks_its_classs_share_holds_back_only_those_that_compete_for_it() -> None:
    waiting = [job(1, BACKGROUND, rows=3), job(2, BACKGROUND), job(3, NORMAL), job(4, INTERACTIVE)]
    assert tickets(jobs_to_start(waiting, {**IDLE, BACKGROUND: 4}, LIMITS, 100, always)) == [3, 4]


def test_a_small_batch_keeps_nothing_back() -> None:
    waiting = [job(ticket, BACKGROUND) for ticket in range(5)]
    assert len(jobs_to_start(waiting, IDLE, Limits(3, 10), 0, always)) == 3


def test_a_job_wider_than_its_classs_share_starts_once_nobody_uses_that() -> None:
    wide = job(1, BACKGROUND, rows=8)
    assert jobs_to_start([wide], IDLE, LIMITS, 0, always) == [wide]
    assert jobs_to_start([wide], {**IDLE, INTERACTIVE: 1}, LIMITS, 0, always) == []


# --- cohorts


@given(
    st.lists(
        st.builds(
            job,
            ticket=st.just(0),
            priority=st.sampled_from(Priority),
            rows=st.integers(1, 4),
            prompt_tokens=st.integers(1, 300),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 8),
    st.integers(1, 256),
)
def test_cohorts_are_alike_short_and_narrow(jobs: list[Job], max_rows: int, max_prompt_tokens: int) -> None:
    left = [replace(each, ticket=number) for number, each in enumerate(jobs)]
    while left:
        cohort = form_cohort(left, max_rows, max_prompt_tokens)
        assert cohort[0] == left[0]
        assert tickets(cohort) == sorted(tickets(cohort))
        lengths = [each.prompt_tokens for each in cohort]
        if len(cohort) > 1:
            assert sum(each.rows for each in cohort) <= max_rows
            assert max(lengths) <= max_prompt_tokens
            assert len({each.priority for each in cohort}) == 1
            assert all(lengths[0] <= 2 * length and length <= 2 * lengths[0] for length in lengths)
        left = [each for each in left if each not in cohort]


def test_equal_short_prompts_advance_together() -> None:
    jobs = [job(1, prompt_tokens=100), job(2, prompt_tokens=900), job(3, prompt_tokens=200), job(4, prompt_tokens=50)]
    assert tickets(form_cohort(jobs, 8, 256)) == [1, 3, 4]
    assert tickets(form_cohort(jobs[1:], 8, 256)) == [2]


def test_a_prompt_joins_a_cohort_that_has_about_as_much_to_come() -> None:
    jobs = [job(1, prompt_tokens=200), job(2, prompt_tokens=90), job(3, BACKGROUND, prompt_tokens=200)]
    assert tickets(who_joins(NORMAL, 150, jobs, 8, 256)) == [1, 2]
    assert tickets(who_joins(NORMAL, 60, jobs, 8, 256)) == [2], "it would wait for what the others have to come"
    assert tickets(who_joins(NORMAL, 190, jobs, 8, 256)) == [1], "the cohort would wait for nothing"
    assert tickets(who_joins(NORMAL, 150, jobs, 1, 256)) == [1]
    assert not who_joins(NORMAL, 300, jobs, 8, 256)


@pytest.mark.parametrize("count", range(1, 9))
def test_no_cohort_is_passed_over_for_long(count: int) -> None:
    passed_over, draw = [0] * count, random.Random(count)
    for _ in range(100):
        ordered = [job(ticket) for ticket in draw.sample(range(count - 1), count - 1)] + [job(count - 1)]
        chosen = next_cohort([Prefilling({ticket}, passed_over[ticket]) for ticket in range(count)], ordered)
        passed_over = [0 if index == chosen else passed + 1 for index, passed in enumerate(passed_over)]
        assert max(passed_over) <= MOST_PASSED_OVER + count - 1


def test_the_cohort_of_the_best_job_is_next() -> None:
    cohorts = [Prefilling({1, 2}, 0), Prefilling({3, 4}, MOST_PASSED_OVER - 1)]
    assert next_cohort(cohorts, [job(2), job(3), job(1), job(4)]) == 0
    assert next_cohort(cohorts, [job(3), job(2), job(1), job(4)]) == 1


# --- all together


@dataclass
class Request:
    """A job with its answer, and when things happened to it (seconds)."""

    job: Job
    answer_tokens: int
    turn_began: float | None = None  # it became its session's oldest waiting job
    sessions_then: int = 0
    started: float | None = None
    first_token: float | None = None
    ended: float | None = None

    @property
    def memory(self) -> int:
        return self.job.prompt_tokens + self.answer_tokens

    @property
    def wait(self) -> float:
        assert self.first_token is not None
        return self.first_token - self.job.since


@dataclass
class Machine:
    """The generation loop on a simulated clock: it asks the real decisions and time passes by the cost model."""

    limits: Limits = LIMITS
    memory_tokens: int = 20_000
    now: float = 0.0
    requests: dict[int, Request] = field(default_factory=dict)
    waiting: dict[int, Job] = field(default_factory=dict)
    prefilling: dict[int, Job] = field(default_factory=dict)
    cohorts: list[Prefilling] = field(default_factory=list)
    decoding: dict[int, int] = field(default_factory=dict)  # ticket -> tokens to come
    computed: dict[str, int] = field(default_factory=dict)  # session -> tokens
    chunks: list[int] = field(default_factory=list)  # first ticket of each cohort that computed one
    cost: StepCost = field(default_factory=StepCost)

    def __post_init__(self) -> None:
        self.shares = FairShares(self.limits.ageing_seconds)

    def submit(self, job: Job, answer_tokens: int) -> Request:
        self.waiting[job.ticket] = job
        self.requests[job.ticket] = Request(job, answer_tokens)
        return self.requests[job.ticket]

    def play(self, arrivals: Sequence[tuple[Job, int]]) -> None:
        """Submits each at its time and runs until all have ended."""
        coming = sorted(arrivals, key=lambda arrival: arrival[0].since, reverse=True)
        while coming or self.busy:
            if not self.busy:
                self.now = max(self.now, coming[-1][0].since)
            while coming and coming[-1][0].since <= self.now:
                self.submit(*coming.pop())
            self.step()

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.prefilling or self.decoding)

    def step(self) -> None:
        ordered = self.shares.order([*self.waiting.values(), *self.prefilling.values()], self.now)
        self._note_turns()
        self._start([each for each in ordered if not each.started])
        decoders = list(self.decoding)
        if self.cohorts:
            self._compute_chunk(next_cohort(self.cohorts, ordered))
        self._decode(decoders)

    def rows_in_use(self) -> dict[Priority, int]:
        rows = IDLE.copy()
        for ticket in (*self.prefilling, *self.decoding):
            rows[self.requests[ticket].job.priority] += self.requests[ticket].job.rows
        return rows

    def memory_left(self) -> int:
        return self.memory_tokens - sum(self.requests[ticket].memory for ticket in (*self.prefilling, *self.decoding))

    def _start(self, ordered: Sequence[Job]) -> None:
        left = self.memory_left()

        def fits(asked: Job) -> bool:
            nonlocal left
            if self.requests[asked.ticket].memory > left:
                return False
            left -= self.requests[asked.ticket].memory
            return True

        fresh = []
        for each in jobs_to_start(ordered, self.rows_in_use(), self.limits, self.now, fits):
            self.requests[each.ticket].started = self.now
            self.prefilling[each.ticket] = replace(self.waiting.pop(each.ticket), started=True)
            fresh.append(each)
        self._check(ordered)
        while fresh:
            together = form_cohort(fresh, 8, 128)
            self.cohorts.append(Prefilling(tickets(together), 0))
            fresh = [each for each in fresh if each not in together]

    def _check(self, ordered: Sequence[Job]) -> None:
        rows = self.rows_in_use()
        assert sum(rows.values()) <= self.limits.max_rows
        assert held_rows(rows, NORMAL) <= self.limits.max_rows - 1
        assert rows[BACKGROUND] <= self.limits.max_rows * 0.75
        assert self.memory_left() >= 0
        for each in ordered:
            if each.ticket in self.waiting:
                may_start = (
                    room_for(each, rows, self.limits) and self.requests[each.ticket].memory <= self.memory_left()
                )
                assert not may_start, "a row is idle while someone waits for it"
                if self.now - each.since >= self.limits.ageing_seconds:
                    break  # whoever is behind this one may be held back

    def _compute_chunk(self, index: int) -> None:
        self.cohorts = [replace(cohort, passed_over=cohort.passed_over + 1) for cohort in self.cohorts]
        cohort = [self.prefilling[ticket] for ticket in self.cohorts[index].tickets]
        self.chunks.append(cohort[0].ticket)
        remaining = max(each.prompt_tokens for each in cohort)
        budget = 0.25 if self.decoding else None
        width = chunk_tokens(self.cost, len(cohort), 0, remaining, budget, 512, 32)
        self.now += self.cost.seconds(len(cohort) * width, 0)
        for each in cohort:
            done = min(width, each.prompt_tokens)
            self._charge(each.session, done)
            self.prefilling[each.ticket] = replace(each, prompt_tokens=each.prompt_tokens - done)
            if done == each.prompt_tokens:
                del self.prefilling[each.ticket]
                self.requests[each.ticket].first_token = self.now
                self.decoding[each.ticket] = self.requests[each.ticket].answer_tokens
        left = [each.ticket for each in cohort if each.ticket in self.prefilling]
        self.cohorts[index : index + 1] = [Prefilling(left, 0)] if left else []

    def _decode(self, decoders: Sequence[int]) -> None:
        if decoders:
            self.now += self.cost.seconds(len(decoders), 0)
        for ticket in decoders:
            self._charge(self.requests[ticket].job.session, self.requests[ticket].job.rows)
            self.decoding[ticket] -= 1
            if not self.decoding[ticket]:
                del self.decoding[ticket]
                self.requests[ticket].ended = self.now

    def _charge(self, session: str, tokens: int) -> None:
        self.shares.charge(session, tokens)
        self.computed[session] = self.computed.get(session, 0) + tokens

    def _note_turns(self) -> None:
        oldest: dict[str, Job] = {}
        for each in self.waiting.values():
            known = oldest.setdefault(each.session, each)
            if (each.since, each.ticket) < (known.since, known.ticket):
                oldest[each.session] = each
        for each in oldest.values():
            request = self.requests[each.ticket]
            if request.turn_began is None:
                request.turn_began, request.sessions_then = self.now, len(oldest)


def random_arrivals(seed: int, count: int, per_second: float, burst: int) -> Iterator[tuple[Job, int]]:
    """Bursts of requests of all classes; some sessions come again and again, others once."""
    draw = random.Random(seed)
    now = 0.0
    for ticket in range(count):
        if ticket % burst == 0:
            now += draw.expovariate(per_second / burst)
        priority = draw.choices(list(Priority), (5, 3, 2))[0]
        session = f"once {ticket}" if draw.random() < 0.3 else f"often {draw.randrange(6)}"
        shortest, longest = {INTERACTIVE: (5, 100), NORMAL: (20, 1500), BACKGROUND: (20, 3000)}[priority]
        prompt = int(shortest * (longest / shortest) ** draw.random())
        rows = draw.choice((1, 1, 1, 1, 2, 4))
        yield job(ticket, priority, session, rows, prompt, now), draw.randint(1, 10 if priority is INTERACTIVE else 40)


@pytest.mark.parametrize(
    ("per_second", "burst"), [(0.5, 1), (1.5, 1), (2.5, 60), (1.0, 150)], ids=["light", "busy", "bursts", "overload"]
)
def test_thousands_of_requests(per_second: float, burst: int) -> None:
    machine = Machine()
    machine.play(list(random_arrivals(burst, 600, per_second, burst)))
    requests = list(machine.requests.values())
    assert all(request.ended is not None for request in requests)
    assert not machine.memory_tokens - machine.memory_left()

    # Bounded waiting. From when a job is its session's oldest, it rises beyond the highest class; then one job of each
    # session that waited before may go first, and what it needs is free when what runs has ended (three times: its
    # class's share, that of the classes above, the batch).
    longest_run = max(request.ended - request.started for request in requests if request.ended and request.started)
    for request in requests:
        assert request.started is not None
        if request.turn_began is None:  # it started before its turn
            continue
        rise = (request.job.priority + 1) * machine.limits.ageing_seconds
        assert request.started - request.turn_began <= rise + (request.sessions_then + 3) * longest_run

    def median_wait(priority: Priority) -> float:
        return median(request.wait for request in requests if request.job.priority is priority)

    assert median_wait(INTERACTIVE) < median_wait(BACKGROUND) / (3 if burst == 1 else 1.5)


# --- floods


def flood(
    machine: Machine, seconds: float, priority: Priority, waiting: int, prompt_tokens: int = 60
) -> Iterator[None]:
    """Keeps so many requests waiting, each of a new session; one step at a time."""
    end = machine.now + seconds
    while machine.now < end:
        for _ in range(waiting - len(machine.waiting)):
            ticket = 1_000_000 + len(machine.requests)
            machine.submit(job(ticket, priority, f"new {ticket}", 1, prompt_tokens, machine.now), 3)
        machine.step()
        yield


def test_a_flood_of_interactive_work_does_not_starve_an_aged_background_job() -> None:
    machine = Machine()
    background = machine.submit(job(1, BACKGROUND, "patient", prompt_tokens=2000), 5)
    for _ in flood(machine, 200, INTERACTIVE, waiting=30):
        pass
    others = [request for request in machine.requests.values() if request.ended and request is not background]
    longest_run = max(request.ended - request.started for request in others if request.ended and request.started)
    assert background.started is not None
    assert background.started <= 3 * machine.limits.ageing_seconds + longest_run
    assert background.ended is not None
    assert len(others) > 500


def test_a_stream_of_new_sessions_does_not_starve_one_that_was_served_before() -> None:
    machine = Machine()
    machine.submit(job(1, INTERACTIVE, "regular", prompt_tokens=3000), 5)
    stream = flood(machine, 100, INTERACTIVE, waiting=20)
    while machine.requests[1].ended is None:
        next(stream)
    again = machine.submit(job(2, INTERACTIVE, "regular", since=machine.now), 5)
    before = len(machine.requests)
    for _ in stream:
        pass
    assert again.started is not None
    assert again.started - again.job.since <= machine.limits.ageing_seconds + 2
    assert len(machine.requests) - before > 500


def test_a_background_prompt_advances_under_a_flood_of_interactive_prompts() -> None:
    machine = Machine()
    background = machine.submit(job(1, BACKGROUND, "patient", prompt_tokens=4000), 1)
    machine.step()
    first = len(machine.chunks)
    for _ in flood(machine, 60, INTERACTIVE, waiting=5):
        if background.first_token is not None:
            break
    chunks = machine.chunks[first:]
    assert background.first_token is not None
    assert chunks.count(1) >= len(chunks) / (MOST_PASSED_OVER + 7)
    assert chunks.count(1) < len(chunks) / 2  # and the others do not wait for it


def test_short_work_overtakes_a_long_prompt_between_two_chunks() -> None:
    machine = Machine()
    long = machine.submit(job(1, NORMAL, "a", prompt_tokens=5000), 5)
    machine.step()
    machine.step()
    short = machine.submit(job(2, INTERACTIVE, "b", prompt_tokens=20, since=machine.now), 5)
    machine.step()
    assert machine.chunks == [1, 1, 2]
    assert short.first_token is not None
    assert long.first_token is None


# --- fair shares


def keep_busy(machine: Machine, seconds: float, sizes: dict[str, tuple[int, int, int]]) -> dict[str, int]:
    """Tokens of each session that always has work: how many of its jobs wait, of what prompt and answer length."""
    while machine.now < seconds:
        for session, (waiting, prompt_tokens, answer_tokens) in sizes.items():
            for _ in range(waiting - sum(each.session == session for each in machine.waiting.values())):
                ticket = len(machine.requests)
                machine.submit(job(ticket, NORMAL, session, 1, prompt_tokens, machine.now), answer_tokens)
        machine.step()
    return machine.computed


@pytest.mark.parametrize(
    "other", [(1, 300, 20), (30, 300, 20), (2, 900, 5), (10, 60, 40)], ids=["equal", "more", "longer", "shorter"]
)
def test_two_sessions_that_always_have_work_get_equal_shares(other: tuple[int, int, int]) -> None:
    computed = keep_busy(Machine(), 300, {"one": (1, 300, 20), "other": other})
    assert computed["one"] / computed["other"] == pytest.approx(1, abs=0.1)


def test_one_sessions_flood_delays_anothers_request_by_one_job_at_most() -> None:
    machine = Machine()
    for ticket in range(100):
        machine.submit(job(ticket, session="flood", prompt_tokens=300), 20)
    while machine.now < 5:
        machine.step()
    single = machine.submit(job(1000, session="single", prompt_tokens=300, since=machine.now), 20)
    while single.ended is None:
        machine.step()
    flooding = [request for request in machine.requests.values() if request is not single and request.started]
    assert single.started is not None
    later = [request for request in flooding if request.started and single.job.since < request.started < single.started]
    assert len(later) <= 1
    assert single.wait < 3
    assert len(machine.waiting) > 50
