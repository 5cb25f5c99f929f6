"""Files on their way into the store over HTTP, kept over restarts: what has arrived of one is as long as its file.

    uploads/<id>/note.json     what was announced
    uploads/<id>/content       what has arrived; locked with flock by who writes

Every method blocks: call from a worker thread.
"""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from gateway.errors import InsufficientStorage, InvalidRequest, ModelStoreError, UploadConflict, UploadNotKnown
from gateway.model_store.checksums import sha256_of_file
from gateway.model_store.store_folders import disk_errors_explained, require_space

NOTE, CONTENT = "note.json", "content"
GATHERED = "gathered-"
"""The beginning of the name of a folder in which an import finds its files by their own names."""
MOST_UPLOADS = 200
SPARE_BYTES = 1 << 30
"""Left free on the disk beside all that was announced."""
STALE_SECONDS = 24 * 3600


class UploadNote(msgspec.Struct, frozen=True):
    """`name` is the file's; files of one `batch` make one model; `model_id` is what it is to be called.

    `failed` says why an import of it failed, so that none is begun again by itself.
    """

    name: str
    size_bytes: int
    sha256: str = ""
    batch: str = ""
    model_id: str = ""
    failed: str = ""


@dataclass(frozen=True)
class Upload:
    """`offset` bytes have arrived."""

    upload_id: str
    note: UploadNote
    offset: int

    @property
    def is_whole(self) -> bool:
        return self.offset == self.note.size_bytes


class UploadWriter:
    """Appends to one upload, whose file it holds locked."""

    def __init__(self, file: IO[bytes], upload: Upload) -> None:
        self._file = file
        self._note = upload.note
        self.offset = upload.offset

    def write(self, piece: bytes) -> None:
        """Raises `InvalidRequest`, having written nothing, for more than was announced."""
        if self.offset + len(piece) > self._note.size_bytes:
            raise InvalidRequest(f"{self._note.name} was announced with {self._note.size_bytes} bytes; this is more.")
        self._file.write(piece)
        self.offset += len(piece)


class UploadFolder:
    """The uploads of the store under `root`."""

    def __init__(self, root: Path) -> None:
        self._folder = root.absolute() / "uploads"
        with disk_errors_explained(root):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, note: UploadNote) -> Upload:
        """Raises `InvalidRequest` for a name that is no file's, `InsufficientStorage`, ModelStoreError."""
        _check_name(note.name)
        known = self.all()
        if len(known) >= MOST_UPLOADS:
            raise InvalidRequest(f"There are {len(known)} uploads already. Delete some: DELETE /admin/uploads/ID.")
        if note.batch and any((upload.note.batch, upload.note.name) == (note.batch, note.name) for upload in known):
            raise InvalidRequest(f"The batch {note.batch!r} has a file {note.name!r} already.", "name")
        promised_bytes = sum(upload.note.size_bytes - upload.offset for upload in known)
        with disk_errors_explained(self._folder):
            try:
                require_space(self._folder, promised_bytes + note.size_bytes + SPARE_BYTES)
            except ModelStoreError as error:
                raise InsufficientStorage(str(error)) from error
            upload_id = uuid.uuid4().hex
            made = self._folder / f".{upload_id}"  # renamed when it is whole
            made.mkdir()
            (made / CONTENT).touch()
            _write(made / NOTE, note)
            made.rename(self._folder / upload_id)
        return Upload(upload_id, note, 0)

    def find(self, upload_id: str) -> Upload:
        """Raises `UploadNotKnown`."""
        folder = self._folder / upload_id
        try:
            if not (upload_id.isalnum() and upload_id.isascii()):
                raise UploadNotKnown(upload_id)
            note = msgspec.json.decode((folder / NOTE).read_bytes(), type=UploadNote)
            return Upload(upload_id, note, (folder / CONTENT).stat().st_size)
        except (OSError, msgspec.DecodeError) as error:
            raise UploadNotKnown(upload_id) from error

    def all(self) -> list[Upload]:
        """The oldest first."""
        uploads = []
        for folder in sorted(self._folder.iterdir(), key=_changed_at):
            with suppress(UploadNotKnown):
                uploads.append(self.find(folder.name))
        return uploads

    @contextmanager
    def writing(self, upload_id: str, offset: int) -> Iterator[UploadWriter]:
        """What was written is on disk when this returns, by an error too.

        Raises `UploadNotKnown`, and `UploadConflict` when the file is not `offset` long or someone writes to it.
        """
        self.find(upload_id)
        with disk_errors_explained(self._folder), (self._folder / upload_id / CONTENT).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UploadConflict(self.find(upload_id).offset, "another request is writing to it") from error
            upload = self.find(upload_id)
            if upload.offset != offset:
                raise UploadConflict(upload.offset, f"it goes on at {upload.offset}, not at {offset}")
            try:
                yield UploadWriter(file, upload)
            finally:
                file.flush()
                os.fsync(file.fileno())

    def require_sound(self, upload: Upload) -> None:
        """Raises `InvalidRequest`, and forgets the upload, when its bytes are not those that were announced."""
        if not upload.note.sha256:
            return
        found = sha256_of_file(self._folder / upload.upload_id / CONTENT)
        if found != upload.note.sha256:
            self.remove(upload.upload_id)
            raise InvalidRequest(
                f"{upload.note.name} has the SHA-256 {found}, not {upload.note.sha256}. It was removed.",
                "sha256",
            )

    def gather(self, uploads: Sequence[Upload]) -> Path:
        """A folder with the uploads by their names, as links; of a single one the file in it. `ungather` removes it."""
        with disk_errors_explained(self._folder):
            folder = self._folder / f"{GATHERED}{uuid.uuid4().hex}"
            for upload in uploads:
                target = folder / upload.note.name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(self._folder / upload.upload_id / CONTENT, target)
        return folder / uploads[0].note.name if len(uploads) == 1 else folder

    def ungather(self, gathered: Path) -> None:
        shutil.rmtree(self._folder / gathered.relative_to(self._folder).parts[0], ignore_errors=True)

    def note_failure(self, upload: Upload, reason: str) -> None:
        with disk_errors_explained(self._folder), suppress(FileNotFoundError):
            _write(self._folder / upload.upload_id / NOTE, msgspec.structs.replace(upload.note, failed=reason))

    def remove(self, upload_id: str) -> None:
        self.find(upload_id)
        shutil.rmtree(self._folder / upload_id, ignore_errors=True)

    def remove_stale(self, in_use: Collection[str]) -> None:
        """What nobody has added to for a day, but for those in use; and what a killed server had gathered."""
        now = time.time()
        for folder in self._folder.iterdir():
            if folder.name not in in_use and now - _changed_at(folder) > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _check_name(name: str) -> None:
    parts = PurePosixPath(name).parts
    wrong = not parts or len(parts) > 2 or len(name) > 200 or name != "/".join(parts)
    if wrong or not name.isprintable() or "\\" in name or any(part.startswith((".", "/")) for part in parts):
        raise InvalidRequest(f"{name[:80]!r} is no file's name. Give one such as model.safetensors.", "name")


def _changed_at(folder: Path) -> float:
    """Seconds since 1970."""
    with suppress(OSError):
        return (folder / CONTENT).stat().st_mtime
    with suppress(OSError):
        return folder.stat().st_mtime
    return time.time()


def _write(path: Path, note: UploadNote) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(note))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
