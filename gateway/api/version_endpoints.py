"""The versions of stored models: which there are, back to the one before, are they sound. For the operator only.

`id` is what the model is called in the store, which a Hugging Face id is.
"""

from collections.abc import Callable
from typing import Annotated, TypeVar

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.job_endpoints import job_object
from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.config import Config
from gateway.model_pool.background import in_background
from gateway.model_pool.jobs import Jobs
from gateway.model_store.hub import Hub
from gateway.model_store.sources import read_hub_id
from gateway.model_store.store_folders import StoreFolders, disk_errors_explained
from gateway.model_store.updates import look_for_updates
from gateway.model_store.upkeep import Removed, Upkeep, Version
from gateway.model_store.verification import verify_model
from gateway.protocols.json_body import decode_body

Result = TypeVar("Result")


class RollbackRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`to` is the beginning of a version's name or commit; without it the version that was current before."""

    to: str | None = None


class GarbageRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`keep` earlier versions of each model stay; `downloads`: also what unfinished downloads left."""

    keep: Annotated[int, Meta(ge=0)] = 1
    downloads: bool = False
    dry_run: bool = False


class VersionList(Struct, frozen=True):
    versions: list[Version]


class RemovedList(Struct, frozen=True):
    removed: list[Removed]


class VersionEndpoints:
    def __init__(self, config: Config, folders: StoreFolders, jobs: Jobs) -> None:
        self._config = config
        self._folders = folders
        self._upkeep = Upkeep(folders)
        self._jobs = jobs

    async def list_all(self, request: Request) -> Response:
        """GET /admin/versions, or of one model with ?model="""
        operator_only(request)
        asked = request.query_params.get("model")

        def versions() -> VersionList:
            models = [asked] if asked is not None else self._upkeep.models()
            return VersionList([version for model in models for version in self._upkeep.versions(model)])

        return json_response(await self._done(versions))

    async def roll_back(self, request: Request) -> Response:
        """POST /admin/models/{id}/rollback: what has it in memory takes it when it loads the model again."""
        operator_only(request)
        asked = decode_body(await request.body() or b"{}", RollbackRequest)
        model_id = request.path_params["model_id"]
        return json_response(await self._done(lambda: self._upkeep.roll_back(model_id, asked.to)))

    async def collect_garbage(self, request: Request) -> Response:
        """POST /admin/versions/gc: removes what nobody needs any more, and says what that was."""
        operator_only(request)
        asked = decode_body(await request.body() or b"{}", GarbageRequest)
        pinned = [source for offered in self._config.offered_models if (source := read_hub_id(offered.source))]

        def collect() -> RemovedList:
            return RemovedList(
                self._upkeep.collect_garbage(
                    keep=asked.keep, pinned=pinned, downloads=asked.downloads, dry_run=asked.dry_run
                )
            )

        return json_response(await self._done(collect))

    async def verify(self, request: Request) -> Response:
        """POST /admin/models/{id}/verify: a job that reads every byte; 202, see GET /admin/jobs/{id}."""
        operator_only(request)
        model_id = request.path_params["model_id"]
        await self._done(lambda: self._upkeep.versions(model_id))  # that there are any
        downloads = self._config.downloads
        job = self._jobs.start(
            "verify", model_id, lambda report: verify_model(self._folders, downloads, model_id, report)
        )
        return json_response(job_object(job), 202)

    async def outdated(self, request: Request) -> Response:
        """POST /admin/versions/outdated: a job that asks the hub for newer versions of what is stored."""
        operator_only(request)
        hub = Hub(self._config.downloads)
        job = self._jobs.start("outdated", "", lambda report: look_for_updates(self._folders, hub, report))
        return json_response(job_object(job), 202)

    async def _done(self, work: Callable[[], Result]) -> Result:
        def on_disk() -> Result:
            with disk_errors_explained(self._folders.root):
                return work()

        return await in_background(on_disk, "versions")
