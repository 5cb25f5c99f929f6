"""One model's generation: takes requests, decides what is computed next, reports tokens. Runs on the MLX thread.

A step: start whoever may start, decode one token (or more) of every running row, compute one chunk of one cohort of
prompts, report. Who and how much is decided by `scheduling`, `step_cost` and `memory_ledger`.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.engine.batch import Batch
from gateway.engine.memory_ledger import ModelMemory
from gateway.engine.prefill import Cohort, Prompt
from gateway.engine.prefix_reuse import PrefixReuse
from gateway.engine.prompt_lookup import LONGEST_DRAFT_TOKENS, PromptIndex, PromptLookup
from gateway.engine.ragged_caches import GROWTH_TOKENS
from gateway.engine.row import Row, RowFailure, RowOutcome
from gateway.engine.sampling import RowSampling
from gateway.engine.scheduling import (
    FairShares,
    Job,
    Limits,
    Prefilling,
    form_cohort,
    jobs_to_start,
    next_cohort,
    who_joins,
)
from gateway.engine.step_cost import chunk_tokens
from gateway.engine.token_stream import GeneratedToken, Starving, StepReport, TokenRequest
from gateway.errors import GatewayError, GenerationFailed, InvalidRequest, ModelUnavailable, ShuttingDown
from gateway.generation.request import Priority
from gateway.observability.engine_state import EngineState, PrefixUse
from gateway.prefix_cache.prefix_cache import PrefixCache

log = logging.getLogger(__name__)

LONGEST_SHARED_PROMPT_TOKENS = 1024
"""Longer prompts are computed alone: together they would hold each other up for no gain."""

MOST_SCORED_TOKENS = 256
"""Of one chunk, where log-probabilities of its tokens are wanted: their logits are all in memory at once."""

FIRST_CHUNK_SHARE = 4
"""A prompt that others may join begins with a chunk of one part in so many of the usual: clients that send at once
arrive within some hundredths of a second, and the sooner they are joined, the less their prompts' ends lie apart."""


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """What the operator and the backend allow. Chunks are tokens of one prompt, a pass those of all its rows."""

    max_rows: int
    chunk_tokens: int
    min_chunk_tokens: int
    pass_tokens: int
    stall_budget: float
    ageing_seconds: float
    speculation: bool


@dataclass(eq=False, slots=True)
class _Ticket:
    """A request, from its submission to the end of its last choice."""

    number: int
    request: TokenRequest
    since: float  # seconds, when it began to wait for its start
    choices: set[int]  # that have not ended
    rows: dict[int, Row] = field(default_factory=dict)  # of these choices, once it has begun
    prompts: list[Prompt] = field(default_factory=list)  # none while it waits

    @property
    def started(self) -> bool:
        return bool(self.prompts)

    @property
    def longest(self) -> int:
        """Tokens of its longest row that memory must be kept for."""
        planned = len(self.request.prompt) + self.request.reserved_tokens
        most = len(self.request.prompt) + self.request.max_tokens
        grown = max((len(row.tokens) for row in self.rows.values()), default=0)
        return planned if grown <= planned else min(most, grown + GROWTH_TOKENS)

    @property
    def prompt_tokens_left(self) -> int:
        if self.started:
            return sum(prompt.left for prompt in self.prompts)
        return sum(len(tokens) for tokens, _ in self.parts())

    def end_if_outgrown(self) -> None:
        """Answers that outgrew what was expected end with their next token."""
        for row in self.rows.values():
            if len(row.tokens) > len(self.request.prompt) + self.request.reserved_tokens:
                row.tokens_left = 1

    def parts(self) -> list[tuple[list[int], list[Row]]]:
        """What must be computed before its rows can go on: the same for all choices, unless they have begun."""
        rows = list(self.rows.values())
        if not rows:
            return [(self.request.prompt, [])]
        if all(len(row.tokens) == len(self.request.prompt) for row in rows):
            return [(self.request.prompt, rows)]
        return [(list(row.tokens), [row]) for row in rows]


class GenerationLoop:
    """A `Worker` of the MLX thread.

    A ticket is a request; each of its choices is a row of the batch. Every ticket that was submitted is reported to its
    end exactly once (all choices finished, one failure, or the engine closed) unless it is cancelled.
    """

    def __init__(
        self,
        batch: Batch,
        vocabulary: int,
        limits: LoopLimits,
        memory: ModelMemory,
        report: Callable[[StepReport], None],
        caches: Mapping[str, PrefixCache] | None = None,
        prefix_use: Callable[[], PrefixUse] = PrefixUse,
    ) -> None:
        self._batch = batch
        self._vocabulary = vocabulary
        self._limits = limits
        self._memory = memory
        self._prefixes = PrefixReuse({} if caches is None else caches)
        self._prefix_use = prefix_use
        self._report = report
        self._shares = FairShares(limits.ageing_seconds)
        self._tickets: dict[int, _Ticket] = {}
        self._owners: dict[Row, tuple[_Ticket, int]] = {}
        self._row_limits = Limits(min(limits.max_rows, self._batch.most_rows or limits.max_rows), limits.ageing_seconds)
        self._last_chunk_tokens = 0
        self._preempted = 0
        self._starving: Starving | None = None

    @property
    def has_work(self) -> bool:
        """One that starves is stepped with others, and after each command: whoever makes room gives one."""
        return self._starving is None and any(not self._prefixes.reading(ticket) for ticket in self._tickets)

    @property
    def patience_seconds(self) -> float | None:
        """Half of what the stall budget leaves: a chunk of a prompt may come between the same two steps."""
        if not self.has_work:
            return None
        return (self._limits.stall_budget - 1) / 2 * self._batch.decoding.expected_seconds(1)

    def submit(self, ticket: int, request: TokenRequest) -> None:
        try:
            request.check_tokens(self._vocabulary)
            self._memory.admission.check(
                len(request.prompt),
                request.reserved_tokens,
                len(request.seeds),
                request.prompt_field,
                request.answer_field,
            )
            if len(request.seeds) > self._row_limits.max_rows:
                raise InvalidRequest(f"This model runs at most {self._row_limits.max_rows} choices at once.", "n")
            self._batch.adapted.check(request.adapter)
        except GatewayError as error:
            self._publish(StepReport(failures=[(ticket, error)]))
            return
        self._tickets[ticket] = _Ticket(ticket, request, time.monotonic(), set(range(len(request.seeds))))
        if not request.score_prompt:
            self._prefixes.submitted(ticket, request.prompt, request.adapter)

    def cancel(self, ticket: int, choice: int | None = None) -> None:
        """Frees the rows of a ticket, or of one of its choices, at whatever stage they are.

        Nothing more is reported for them.
        """
        if known := self._tickets.get(ticket):
            self._forget(known, known.choices if choice is None else [choice])
            if not self._tickets:  # no step follows that would
                self._keep_within_memory()
        self._publish(StepReport())

    def step(self) -> None:
        report = StepReport()
        now = time.monotonic()
        ordered = self._order(now)
        waiting = {job.ticket: job for job in ordered if not job.started}
        self._start([waiting[ticket] for ticket in self._prefixes.those_who_gain_nothing(waiting)], now, report)
        self._decode(report)
        if self._batch.cohorts:
            self._publish(report)
            report = StepReport()
            self._prefill(ordered, report)
        self._batch.observe_memory(self._memory)
        self._keep_within_memory()
        self._publish(report)

    def close(self, error: BaseException | None) -> None:
        """Ends every ticket: the server stops (`error` None) or this engine cannot go on."""
        reason: GatewayError = ShuttingDown()
        if error is not None:
            reason = ModelUnavailable(f"The model's engine stopped and cannot go on: {error}")
        self._report(StepReport(closed=reason))  # first: whoever waits must hear of it whatever happens next
        self._tickets.clear()
        self._owners.clear()
        self._memory.release()

    def release(self) -> None:
        """The model goes, and nobody waits for it: its memory is others' to hold."""
        assert not self._tickets
        self._memory.release()

    def set_aside(self) -> "list[_Ticket]":
        """Every ticket, to be given to `resume` of the loop that the model has when it is loaded the next time.

        What was computed goes to the prefix cache. The rows keep their tokens, seeds and grammars: none is computed
        twice for the client, and none is lost.
        """
        for ticket in self._started():
            self._batch.remove(ticket.rows.values())
            ticket.prompts = []
        tickets = list(self._tickets.values())
        for ticket in tickets:
            self._prefixes.ended(ticket.number)
        self._tickets.clear()
        self._owners.clear()
        self._starving = None
        self._publish(StepReport())
        return tickets

    def resume(self, tickets: "list[_Ticket]") -> None:
        """Those that another loop of this model has `set_aside`, in front of those that came meanwhile."""
        for ticket in tickets:
            ticket.since = time.monotonic()
            self._tickets[ticket.number] = ticket
            for choice, row in ticket.rows.items():
                self._owners[row] = ticket, choice
            self._prefixes.submitted(ticket.number, ticket.parts()[0][0], ticket.request.adapter)

    def _started(self) -> list[_Ticket]:
        """Those that have their rows: their prompts are being computed, or they decode."""
        return [ticket for ticket in self._tickets.values() if ticket.started]

    # --- starting ---------------------------------------------------------------------------------------

    def _order(self, now: float) -> list[Job]:
        """Who waits and whose prompt is being computed, best first; nobody when there is nothing to decide."""
        if sum(len(ticket.rows) for ticket in self._started()) >= self._row_limits.max_rows and not self._batch.cohorts:
            return []
        unready = [self._job(t) for t in self._tickets.values() if not t.started or t.prompt_tokens_left]
        return self._shares.order(unready, now)

    def _job(self, ticket: _Ticket) -> Job:
        reusable = 0 if ticket.started else self._prefixes.reusable(ticket.number)
        return Job(
            ticket=ticket.number,
            priority=ticket.request.priority,
            session=ticket.request.session,
            rows=len(ticket.choices),
            prompt_tokens=ticket.prompt_tokens_left - reusable,
            since=ticket.since,
            started=ticket.started,
        )

    def _start(self, waiting: list[Job], now: float, report: StepReport) -> None:
        self._starving = None
        if not waiting:
            return
        running: Counter[Priority] = Counter()
        for ticket in self._started():
            running[ticket.request.priority] += len(ticket.rows)
        started: list[_Ticket] = []

        def fits(job: Job) -> bool:
            ticket = self._tickets[job.ticket]
            demand = self._demand([*started, ticket])
            alone = not (started or running)
            # alone in memory it was found to fit, and nobody could make more room
            fitting = (alone and self._memory.is_alone) or self._memory.fits_now(*demand)
            if fitting:
                started.append(ticket)
            elif alone and self._starving is None:
                self._starving = Starving(job.ticket, self._memory.wanted_bytes(*demand))
            return fitting

        jobs = jobs_to_start(waiting, running, self._row_limits, now, fits)
        if jobs:
            self._starving = None
        ready = [job for job in jobs if self._make_rows(self._tickets[job.ticket], report)]
        together = self._row_limits.max_rows if self._batch.prompts_together else 1
        for cohort in list(self._batch.cohorts):
            first = self._tickets[cohort.prompts[0].ticket]
            rows_left = together - sum(len(prompt.rows) for prompt in cohort.prompts)
            joining = who_joins(first.request.priority, cohort.left, ready, rows_left, LONGEST_SHARED_PROMPT_TOKENS)
            if joining:
                ready = [job for job in ready if job not in joining]
                self._compute(joining, cohort, report)
        while ready:
            alike = form_cohort(ready, together, LONGEST_SHARED_PROMPT_TOKENS)
            ready = [job for job in ready if job not in alike]
            self._compute(alike, None, report)

    def _make_rows(self, ticket: _Ticket, report: StepReport) -> bool:
        """Everything a fresh ticket's answers need beside the batch. One that cannot start fails alone."""
        if ticket.rows:
            return True  # it had begun before
        request = ticket.request
        drafts = self._limits.speculation and request.top_logprobs is None and self._batch.decoding.caches.rewindable
        try:
            index = PromptIndex(request.prompt) if drafts else None
            for choice in sorted(ticket.choices):
                row = Row(
                    list(request.prompt),
                    request.max_tokens,
                    request.end_tokens,
                    RowSampling(request.sampling, request.seeds[choice], request.prompt, request.top_logprobs),
                    request.grammar.start() if request.grammar else None,
                    PromptLookup(index) if index else None,
                    adapter=request.adapter,
                )
                ticket.rows[choice] = row
                self._owners[row] = ticket, choice
            return True
        except Exception as error:
            log.exception("a request could not be started")
            self._fail([ticket], f"The request could not be started: {error}", report)
            return False

    def _compute(self, jobs: Sequence[Job], cohort: Cohort | None, report: StepReport) -> None:
        """Their prompts are computed from now on: together with a cohort, or as a new one."""
        tickets = [self._tickets[job.ticket] for job in jobs]
        for ticket in tickets:
            ticket.prompts = [self._prompt(ticket, tokens, rows, report) for tokens, rows in ticket.parts()]
        prompts = [prompt for ticket in tickets for prompt in ticket.prompts]
        for group in [prompts] if self._batch.prompts_together else [[prompt] for prompt in prompts]:
            if group[0].ticket in self._tickets:  # else it failed with an earlier part of it
                self._join_ready(self._batch.add(group, cohort), report)

    def _prompt(self, ticket: _Ticket, tokens: list[int], rows: list[Row], report: StepReport) -> Prompt:
        """With what is known of it already."""
        request = ticket.request
        stops = self._batch.stops(tokens, request.message_ends)
        if request.score_prompt and len(tokens) == len(request.prompt):
            return Prompt(
                ticket.number, rows, tokens, stops=stops, adapter=request.adapter, top_logprobs=request.top_logprobs
            )
        taken = self._prefixes.take(ticket.number, tokens, request.session, request.adapter)
        report.reused.append((ticket.number, taken.reuse))
        return Prompt(ticket.number, rows, tokens, taken.prefix, taken.standing, stops, adapter=request.adapter)

    # --- computing --------------------------------------------------------------------------------------

    def _decode(self, report: StepReport) -> None:
        rows = list(self._batch.decoding.rows)  # also those that end in the step that fails
        try:
            outcomes = self._batch.decode()
        except Exception as error:  # noqa: BLE001  (the border of the engine loop)
            self._fail_decoding(rows, error, report)
            return
        for outcome in outcomes:
            self._note(outcome, report)

    def _prefill(self, ordered: list[Job], report: StepReport) -> None:
        cohorts = self._batch.cohorts
        turns = [Prefilling({prompt.ticket for prompt in cohort.prompts}, cohort.passed_over) for cohort in cohorts]
        cohort = cohorts[next_cohort(turns, ordered)]
        for other in cohorts:
            other.passed_over = 0 if other is cohort else other.passed_over + 1
        sessions = [self._tickets[prompt.ticket].request.session for prompt in cohort.prompts]
        width = self._chunk(cohort)
        try:
            self._batch.prefill(cohort, width)
        except Exception as error:
            log.exception("a prompt could not be computed; the engine goes on")
            self._fail_cohort(cohort, f"The model failed while computing the prompt: {error}", report)
            return
        for session in sessions:
            self._shares.charge(session, width)
        for prompt in cohort.prompts:
            self._prefixes.kept(prompt.ticket, prompt.standing.cursor.tokens)
        self._join_ready(cohort, report)

    def _join_ready(self, cohort: Cohort, report: StepReport) -> None:
        """Prompts that are computed become rows that decode."""
        for prompt in cohort.prompts:
            if not prompt.left:
                self._prefixes.ended(prompt.ticket)
                if prompt.top_logprobs is not None:
                    report.prompt_scores.append((prompt.ticket, prompt.scores))
        try:
            self._batch.join_ready(cohort)
        except Exception as error:  # noqa: BLE001  (the border of the engine loop)
            self._fail_decoding(self._batch.decoding.rows, error, report)
            self._fail_cohort(cohort, f"The model failed after computing the prompt: {error}", report)

    def _fail_cohort(self, cohort: Cohort, message: str, report: StepReport) -> None:
        self._batch.drop(cohort)
        self._fail({self._tickets[p.ticket] for p in cohort.prompts if p.ticket in self._tickets}, message, report)

    def _fail_decoding(self, rows: Sequence[Row], error: Exception, report: StepReport) -> None:
        """The rows that share decode steps are lost; prompts on their way there are not."""
        log.error("a decode step failed; its %d answers end, the engine goes on", len(rows), exc_info=error)
        self._batch.drop_decoding()
        tickets = {self._owners[row][0] for row in rows if row in self._owners}
        self._fail(tickets, f"The model failed while generating: {error}", report)

    def _chunk(self, cohort: Cohort) -> int:
        """Tokens of each of the cohort's prompts to compute now."""
        rows, decoding = len(cohort.prompts), self._batch.decoding
        pace, limits = self._batch.pace, self._limits
        budget = None
        if decoding.rows:
            width = decoding.last_pass.width if decoding.last_pass else 1
            budget = limits.stall_budget * decoding.expected_seconds(1) - decoding.expected_seconds(width)
        smallest = min(limits.chunk_tokens, limits.min_chunk_tokens)
        fastest = min(limits.chunk_tokens, max(limits.min_chunk_tokens, limits.pass_tokens // rows))
        if cohort.scoring:
            fastest = min(fastest, max(1, MOST_SCORED_TOKENS // rows))
            smallest = min(smallest, fastest)
        may_grow = self._batch.prompts_together and cohort.left <= LONGEST_SHARED_PROMPT_TOKENS
        if budget is None and not cohort.context and may_grow:
            fastest = max(smallest, fastest // FIRST_CHUNK_SHARE)
        self._last_chunk_tokens = chunk_tokens(
            pace.cost, rows, cohort.context, cohort.left, budget, fastest=fastest, smallest=smallest
        )
        return self._last_chunk_tokens

    # --- memory -----------------------------------------------------------------------------------------

    def _demand(self, more: Iterable[_Ticket] = ()) -> tuple[int, int, list[int]]:
        """Rows, tokens of the longest, and prompts with caches of their own, if `more` tickets started now.

        A buffer that is larger than its rows need counts as it is.
        """
        tickets = self._started()
        prompts = [cohort.longest for cohort in self._batch.cohorts for _ in range(cohort.size)]
        for ticket in more:
            tickets.append(ticket)
            prompts += [len(tokens) for tokens, _ in ticket.parts()]
        rows = sum(len(ticket.choices) for ticket in tickets)
        longest = max((ticket.longest for ticket in tickets), default=-LONGEST_DRAFT_TOKENS) + LONGEST_DRAFT_TOKENS
        held_rows, held_tokens = self._batch.decoding.caches.room
        return max(rows, held_rows), max(longest, held_tokens), prompts

    def _keep_within_memory(self) -> None:
        """Books what the batch may need. When answers outgrew what was expected, the last to come makes room."""
        demand = self._demand()
        while not self._memory.fits_now(*demand):
            running = self._started()
            if len(running) < 2:
                for ticket in running:
                    ticket.end_if_outgrown()
                break
            self._preempt(max(running, key=lambda ticket: (ticket.request.priority, ticket.number)))
            demand = self._demand()
        self._memory.hold(*demand)

    def _preempt(self, ticket: _Ticket) -> None:
        """Back into the queue; its rows start again from their tokens and lose nothing but time."""
        self._preempted += 1
        self._batch.remove(ticket.rows.values())
        self._batch.decoding.caches.fit()
        self._prefixes.ended(ticket.number)  # others may compute what it would have
        ticket.prompts, ticket.since = [], time.monotonic()

    # --- telling ----------------------------------------------------------------------------------------

    def _note(self, outcome: RowOutcome, report: StepReport) -> None:
        if outcome.row not in self._owners:
            return  # its request failed with another choice of this very step
        ticket, choice = self._owners[outcome.row]
        if isinstance(outcome, RowFailure):
            report.failures.append((ticket.number, outcome.error))
            self._forget(ticket, ticket.choices)
            return
        self._shares.charge(ticket.request.session, 1)
        report.tokens.append((ticket.number, GeneratedToken(choice, outcome.token, outcome.scores, outcome.finish)))
        if outcome.finish:
            self._forget(ticket, [choice])

    def _fail(self, tickets: Iterable[_Ticket], message: str, report: StepReport) -> None:
        for ticket in sorted(tickets, key=lambda ticket: ticket.number):
            report.failures.append((ticket.number, GenerationFailed(message)))
            self._forget(ticket, ticket.choices)

    def _forget(self, ticket: _Ticket, choices: Iterable[int]) -> None:
        ended = set(choices)
        ticket.choices -= ended
        if not ticket.choices:
            self._tickets.pop(ticket.number, None)
            self._prefixes.ended(ticket.number)
        rows = [row for choice in ended if (row := ticket.rows.pop(choice, None))]
        for row in rows:
            del self._owners[row]
        self._batch.remove(rows)

    def _publish(self, report: StepReport) -> None:
        running, waiting = 0, Counter[Priority]()
        for ticket in self._tickets.values():
            if ticket.started:
                running += len(ticket.rows)
            else:
                waiting[ticket.request.priority] += len(ticket.choices)
        report.starving = self._starving
        pace, decoding = self._batch.pace, self._batch.decoding
        report.state = EngineState(
            running=running,
            waiting=dict(waiting),
            decode_seconds=decoding.expected_seconds(1),
            fixed_seconds=pace.cost.fixed_seconds,
            seconds_per_token=pace.cost.seconds_per_token,
            seconds_per_attended=pace.cost.seconds_per_attended,
            chunk_tokens=self._last_chunk_tokens,
            drafted_tokens=decoding.drafted_tokens,
            accepted_tokens=decoding.accepted_tokens,
            preempted=self._preempted,
            memory=self._memory.owners(),
            prefixes=self._prefix_use(),
        )
        self._report(report)
