"""Downloads of models into the store, and whether what is stored is still sound. For the operator only."""

from collections.abc import AsyncIterator, Collection

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.api.state_stream import StateStreamResponse
from gateway.config import ServerConfig
from gateway.errors import InvalidRequest
from gateway.model_pool.downloads import Downloads, QueuedDownload
from gateway.model_store.sources import read_hub_id
from gateway.protocols.json_body import decode_body


class DownloadRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`model` is a Hugging Face id; `revision` a commit, tag or branch, which may also stand behind the id and an @."""

    model: str
    revision: str | None = None


class DownloadObject(Struct, frozen=True):
    """`fraction` of it has arrived, 0 to 1; `accepted_at` is in seconds since 1970."""

    id: str
    model: str
    revision: str | None
    state: str
    fraction: float
    doing: str
    version: str | None
    accepted_at: int


class DownloadList(Struct, frozen=True):
    downloads: list[DownloadObject]


class DownloadEndpoints:
    """`trusted` are the sources that the configuration lets bring code."""

    def __init__(self, downloads: Downloads, trusted: Collection[str], config: ServerConfig) -> None:
        self._downloads = downloads
        self._trusted = frozenset(trusted)
        self._config = config

    async def start(self, request: Request) -> Response:
        """POST /admin/downloads: accepts it, and says how far it is if it goes on already."""
        operator_only(request)
        asked = decode_body(await request.body(), DownloadRequest)
        named = f"{asked.model}@{asked.revision}" if asked.revision is not None else asked.model
        source = read_hub_id(named)
        if source is None:
            raise InvalidRequest(
                f"{named!r} is no Hugging Face id. Write ORGANISATION/NAME, perhaps with @REVISION.", "model"
            )
        download = self._downloads.start(source, trusted=source.model_id in self._trusted)
        return json_response(_describe(download), 202, {"location": f"/admin/downloads/{download.download_id}"})

    async def list_all(self, request: Request) -> Response:
        """GET /admin/downloads, the latest last."""
        operator_only(request)
        return json_response(DownloadList([_describe(download) for download in self._downloads.all]))

    async def get(self, request: Request) -> Response:
        """GET /admin/downloads/{id}"""
        operator_only(request)
        return json_response(_describe(self._downloads.find(request.path_params["download_id"])))

    async def events(self, request: Request) -> Response:
        """GET /admin/downloads/{id}/events: its state at once and after each change, until it is over."""
        operator_only(request)
        download = self._downloads.find(request.path_params["download_id"])
        return StateStreamResponse(self._states(download), self._config)

    async def cancel(self, request: Request) -> Response:
        """DELETE /admin/downloads/{id}: what has arrived is kept for another try."""
        operator_only(request)
        return json_response(_describe(await self._downloads.cancel(request.path_params["download_id"])))

    async def _states(self, download: QueuedDownload) -> AsyncIterator[DownloadObject]:
        async for state in self._downloads.watch(download):
            yield _describe(state)


def _describe(download: QueuedDownload) -> DownloadObject:
    return DownloadObject(
        download.download_id,
        download.source.repo_id,
        download.source.revision,
        download.state.value,
        round(download.fraction, 4),
        download.doing,
        download.version or None,
        int(download.accepted_at),
    )
