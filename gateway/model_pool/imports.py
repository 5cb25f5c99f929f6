"""Imports that the operator asked the server for, of files on its disk or uploaded ones. Belongs to the event loop."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from gateway.errors import InvalidRequest, ModelStoreError, UploadConflict
from gateway.model_pool.jobs import Job, JobCancelled, Jobs
from gateway.model_store.sources import ImportSource, read_import
from gateway.model_store.store import ModelStore
from gateway.model_store.store_folders import Report
from gateway.model_store.upload_folder import Upload, UploadFolder

KIND = "import"
SWEEP_SECONDS = 3600

log = logging.getLogger(__name__)


class ImportedModel(Struct, frozen=True):
    """A job's result: `model` is an id that works as a `source`; `checked` is what was tried and found sound."""

    model: str
    licence: str
    checked: list[str]


class Imports:
    """Starts them as jobs, one after the other. An uploaded file is removed when its model is in the store."""

    def __init__(self, store: ModelStore, uploads: UploadFolder, jobs: Jobs) -> None:
        self._store = store
        self._uploads = uploads
        self._jobs = jobs
        self._importing: dict[str, Job] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._stopping = False

    async def begin(self) -> None:
        """Goes on with uploads that were whole when the server ended, and keeps removing stale ones from now on."""
        for upload in await asyncio.to_thread(self._uploads.all):
            if upload.is_whole and not upload.note.batch and not upload.note.failed:
                self.start_upload(upload)
        self._sweeping = asyncio.create_task(self._sweep())

    def shut_down(self) -> None:
        """Call it before the jobs are cancelled: imports of uploads begin again at the next start."""
        self._stopping = True
        if self._sweeping:
            self._sweeping.cancel()

    def start_path(self, path: str, model_id: str) -> Job:
        """Raises `InvalidRequest` for a path that is not there, and for an id that cannot be one."""
        try:
            source = read_import(path, model_id)
        except ModelStoreError as error:
            raise InvalidRequest(str(error), "path") from error
        return self._jobs.start(KIND, source.model_id, lambda report: self._import(source, report))

    async def start_batch(self, batch: str, model_id: str) -> Job:
        """Raises `InvalidRequest` when there is no such batch, or not all of it has arrived."""
        uploads = [upload for upload in await asyncio.to_thread(self._uploads.all) if upload.note.batch == batch]
        if not uploads:
            raise InvalidRequest(f"There are no uploads of a batch {batch[:80]!r}.", "batch")
        if missing := [upload.note.name for upload in uploads if not upload.is_whole]:
            raise InvalidRequest(f"Of this batch {', '.join(missing[:4])} is not uploaded yet.", "batch")
        return self._start(uploads, model_id or batch)

    def start_upload(self, upload: Upload) -> Job:
        """Of a file that has wholly arrived."""
        return self._start([upload], upload.note.model_id)

    def is_importing(self, upload_id: str) -> bool:
        job = self._importing.get(upload_id)
        return job is not None and not job.is_over

    def _start(self, uploads: Sequence[Upload], model_id: str) -> Job:
        for upload in uploads:
            if self.is_importing(upload.upload_id):
                raise UploadConflict(upload.offset, f"the import {self._importing[upload.upload_id].id} reads it")
        job = self._jobs.start(
            KIND, model_id or uploads[0].note.name, lambda report: self._take(uploads, model_id, report)
        )
        self._importing |= {upload.upload_id: job for upload in uploads}
        return job

    def _take(self, uploads: Sequence[Upload], model_id: str, report: Report) -> ImportedModel:
        """On the job's thread."""
        gathered = self._uploads.gather(uploads)
        try:
            named = read_import(str(gathered), model_id)
            names = ", ".join(upload.note.name for upload in uploads)
            imported = self._import(ImportSource(named.path, named.model_id, f"uploaded {names}"), report)
        except ModelStoreError as error:
            reason = _in_names_of_uploads(str(error), gathered, uploads)
            self._note_failure(uploads, reason)
            raise ModelStoreError(reason) from error
        except JobCancelled:
            if not self._stopping:
                self._note_failure(uploads, "cancelled")
            raise
        finally:
            self._uploads.ungather(gathered)
        for upload in uploads:
            self._uploads.remove(upload.upload_id)
        return imported

    def _import(self, source: ImportSource, report: Report) -> ImportedModel:
        model = self._store.import_model(source, report)
        assert model.manifest is not None, "the store wrote one"
        return ImportedModel(model.model_id, model.manifest.licence, model.manifest.checked)

    def _note_failure(self, uploads: Sequence[Upload], reason: str) -> None:
        for upload in uploads:
            self._uploads.note_failure(upload, reason)

    async def _sweep(self) -> None:
        while True:
            self._importing = {upload_id: job for upload_id, job in self._importing.items() if not job.is_over}
            try:
                await asyncio.to_thread(self._uploads.remove_stale, frozenset(self._importing))
            except OSError as error:
                log.warning("stale uploads cannot be removed: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)


def _in_names_of_uploads(reason: str, gathered: Path, uploads: Sequence[Upload]) -> str:
    """Nobody knows the place where an import found its files."""
    whole = f"{uploads[0].note.name}: " if len(uploads) == 1 else ""
    return reason.replace(f"{gathered}: ", whole).replace(f"{gathered}/", "")
