"""How far long work is that an operator asked for. For the operator only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.api.state_stream import StateStreamResponse
from gateway.config import ServerConfig
from gateway.errors import InvalidRequest
from gateway.model_pool.jobs import Job, Jobs

LONGEST_WAIT_SECONDS = 300


class JobObject(Struct, frozen=True):
    """`fraction` is 0 to 1; `result` is there when the state is `done`, `error` says what went wrong."""

    id: str
    kind: str
    model: str
    state: str
    fraction: float
    doing: str
    error: str
    result: object


class JobList(Struct, frozen=True):
    jobs: list[JobObject]


class JobEndpoints:
    def __init__(self, jobs: Jobs, config: ServerConfig) -> None:
        self._jobs = jobs
        self._config = config

    async def list_jobs(self, request: Request) -> Response:
        """GET /admin/jobs, the oldest first"""
        operator_only(request)
        return json_response(JobList([job_object(job) for job in self._jobs.all]))

    async def get_job(self, request: Request) -> Response:
        """GET /admin/jobs/{id}; with ?wait_seconds= it is answered when the job is over, or then."""
        operator_only(request)
        job = self._jobs.find(request.path_params["job_id"])
        with suppress(TimeoutError):
            await asyncio.wait_for(job.ended.wait(), _wait_seconds(request))
        return json_response(job_object(job))

    async def events(self, request: Request) -> Response:
        """GET /admin/jobs/{id}/events: its state at once and after each change, until it is over."""
        operator_only(request)
        return StateStreamResponse(self._states(self._jobs.find(request.path_params["job_id"])), self._config)

    async def cancel_job(self, request: Request) -> Response:
        """DELETE /admin/jobs/{id}: it ends soon, and leaves nothing behind."""
        operator_only(request)
        job = self._jobs.find(request.path_params["job_id"])
        self._jobs.cancel(job)
        return json_response(job_object(job))

    async def _states(self, job: Job) -> AsyncIterator[JobObject]:
        async for state in self._jobs.watch(job):
            yield job_object(state)


def _wait_seconds(request: Request) -> int:
    text = request.query_params.get("wait_seconds", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and int(text) <= LONGEST_WAIT_SECONDS):
        raise InvalidRequest(f"It must be a whole number from 0 to {LONGEST_WAIT_SECONDS}.", "wait_seconds")
    return int(text)


def job_object(job: Job) -> JobObject:
    return JobObject(job.id, job.kind, job.model, job.state.value, job.fraction, job.doing, job.error, job.result)
