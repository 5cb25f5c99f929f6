"""Long work that an operator asked for and nobody waits for, such as quantising a model. Belongs to the event loop."""

import asyncio
import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.errors import GatewayError, InvalidRequest
from gateway.model_pool.background import in_background
from gateway.model_store.store_folders import Report

log = logging.getLogger(__name__)

MOST_REMEMBERED = 100
"""Jobs that are over."""


class JobState(StrEnum):
    WAITING = "waiting"  # for another job of its kind
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobCancelled(Exception):
    """Raised within the work by its report of progress."""


@dataclass(slots=True)
class Job:
    """`doing` is in words; `result` is there when it is done, `error` when it failed. Changes while it runs."""

    id: str
    kind: str
    model: str
    state: JobState = JobState.WAITING
    fraction: float = 0.0
    doing: str = "waiting for another job"
    error: str = ""
    result: object = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the next change, which puts another one in its place."""

    @property
    def is_over(self) -> bool:
        return self.state not in (JobState.WAITING, JobState.RUNNING)

    def tell_watchers(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Jobs:
    """Those of one kind run one after the other. The last ones that are over are remembered until the server ends."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def all(self) -> list[Job]:
        """The oldest first."""
        return list(self._jobs.values())

    def start(self, kind: str, model_id: str, work: Callable[[Report], object]) -> Job:
        """Has `work` done on a thread of its own; it may block, and is stopped through the report it is given."""
        job = Job(uuid.uuid4().hex[:12], kind, model_id)
        self._jobs[job.id] = job
        over = [known.id for known in self._jobs.values() if known.is_over]
        for job_id in over[: max(0, len(over) - MOST_REMEMBERED)]:
            del self._jobs[job_id]
        task = asyncio.create_task(self._run(job, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    def find(self, job_id: str) -> Job:
        """Raises `InvalidRequest`."""
        try:
            return self._jobs[job_id]
        except KeyError:
            raise InvalidRequest(f"There is no job {job_id!r}. GET /admin/jobs lists them.", "id") from None

    async def watch(self, job: Job) -> AsyncIterator[Job]:
        """At once, and again after each change, until it is over."""
        while True:
            changed = job.changed
            yield job
            if job.is_over:
                return
            await changed.wait()

    def cancel(self, job: Job) -> None:
        """Takes effect at the work's next word of progress; nothing happens to one that is over."""
        job.cancelled.set()

    def shut_down(self) -> None:
        """Cancels all."""
        for job in self._jobs.values():
            job.cancelled.set()
        for task in self._tasks:
            task.cancel()

    async def _run(self, job: Job, work: Callable[[Report], object]) -> None:
        try:
            async with self._turns[job.kind]:
                job.result = await self._done(job, work)
        except (JobCancelled, asyncio.CancelledError):
            job.state = JobState.CANCELLED
        except GatewayError as error:
            job.state, job.error = JobState.FAILED, str(error)
        except Exception as error:
            log.exception("job %s failed", job.id)
            job.state, job.error = JobState.FAILED, f"An unexpected error: {error}"
        else:
            job.state, job.fraction, job.doing = JobState.DONE, 1.0, "done"
        job.ended.set()
        job.tell_watchers()
        log.info("job %s: %s %s", job.id, job.state.value, job.error)

    async def _done(self, job: Job, work: Callable[[Report], object]) -> object:
        """The work's result."""
        loop = asyncio.get_running_loop()

        def report(fraction: float, doing: str) -> None:
            if job.cancelled.is_set():
                raise JobCancelled
            loop.call_soon_threadsafe(self._progress, job, fraction, doing)

        report(0.0, "starting")  # it may have been cancelled while it waited
        job.state = JobState.RUNNING
        log.info("job %s: %s %s", job.id, job.kind, job.model)
        return await in_background(lambda: work(report), f"job-{job.kind}")

    def _progress(self, job: Job, fraction: float, doing: str) -> None:
        if job.is_over:
            return
        if doing != job.doing:
            log.info("job %s: %s", job.id, doing)
        job.fraction, job.doing = fraction, doing
        job.tell_watchers()
