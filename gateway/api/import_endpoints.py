"""Making models of files on the server's disk, or of uploaded ones. For the operator only."""

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.job_endpoints import JobList, job_object
from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.errors import InvalidRequest
from gateway.model_pool.imports import KIND, Imports
from gateway.model_pool.jobs import Jobs
from gateway.protocols.json_body import decode_body


class ImportRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Either a `path` on the server's disk or a `batch` of uploads; `id` is what the model is to be called."""

    path: str = ""
    batch: str = ""
    id: str = ""


class ImportEndpoints:
    def __init__(self, imports: Imports, jobs: Jobs) -> None:
        self._imports = imports
        self._jobs = jobs

    async def start(self, request: Request) -> Response:
        """POST /admin/imports: a job that adds a model to the store; 202, see GET /admin/imports/{id}."""
        operator_only(request)
        asked = decode_body(await request.body(), ImportRequest)
        if bool(asked.path) == bool(asked.batch):
            raise InvalidRequest("Give either a path on the server's disk or a batch of uploads.", "path")
        if asked.batch:
            job = await self._imports.start_batch(asked.batch, asked.id)
        else:
            job = self._imports.start_path(asked.path, asked.id)
        return json_response(job_object(job), 202, {"location": f"/admin/imports/{job.id}"})

    async def list_all(self, request: Request) -> Response:
        """GET /admin/imports, the oldest first"""
        operator_only(request)
        return json_response(JobList([job_object(job) for job in self._jobs.all if job.kind == KIND]))
