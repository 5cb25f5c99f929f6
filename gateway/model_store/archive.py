"""Unpacks zip and tar archives, which may come from anywhere: plain files and folders only, inside one folder only.

Every name is checked before anything is written. Claimed sizes are not believed: bytes are counted as they come.
"""

import errno
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from stat import S_ISDIR, S_ISREG
from typing import IO

from gateway.errors import ModelFilesInvalid
from gateway.model_store.store_folders import Report, require_space

MOST_ENTRIES = 10_000
MOST_EXPANSION = 100
"""Times the archive's size: weights hardly shrink at all, so what grows so much holds no model."""
SMALL_BYTES = 64 << 20
"""What any archive may grow to: one of text alone shrinks well."""
SPARE_BYTES = 256 << 20  # left on the disk
PIECE_BYTES = 1 << 20
BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, BadGzipFile, EOFError, ValueError, struct.error),
    *(NotImplementedError, RuntimeError),  # zipfile's words for an unknown compression, and for a password
)


def unpack(archive: Path, folder: Path, report: Report) -> Path:
    """Unpacks into `folder`, which must be empty; returns the folder inside it in which the content begins.

    Raises ModelFilesInvalid for an archive that is broken, reaches out of the folder, holds links or devices, or grows
    without measure; ModelStoreError when the disk is too small.
    """
    report(0.0, "unpacking")
    with _broken_archives_explained(archive):
        budget = _Budget(archive, folder)
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder, budget, report)
        else:
            _unpack_tar(archive, folder, budget, report)
    return _content_of(folder)


class _Budget:
    """How much may still be written."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self._archive = archive
        self._folder = folder
        self._most_bytes = max(SMALL_BYTES, MOST_EXPANSION * archive.stat().st_size)
        self._written_bytes = 0
        self._names: set[str] = set()

    def admit(self, name: str, size_bytes: int) -> Path:
        """Where the entry goes; raises for a name that leads elsewhere, and when there is no room."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
            raise ModelFilesInvalid(self._archive, f"holds {name[:80]!r}, which is outside of it")
        key = "/".join(parts).casefold()  # two names may be one file on a Mac's disk
        if key in self._names:
            raise ModelFilesInvalid(self._archive, f"holds {name[:80]!r} twice")
        self._names.add(key)
        if len(self._names) > MOST_ENTRIES:
            raise ModelFilesInvalid(self._archive, f"holds more than {MOST_ENTRIES} files")
        self._check(size_bytes)
        require_space(self._folder, size_bytes + SPARE_BYTES)
        return self._folder.joinpath(*parts)

    def write(self, content: IO[bytes], size_bytes: int, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        left = size_bytes
        with target.open("xb") as file:
            while piece := content.read(PIECE_BYTES):
                left -= len(piece)
                if left < 0:
                    raise ModelFilesInvalid(self._archive, f"{target.name} in it is longer than it claims")
                file.write(piece)
        if left:
            raise ModelFilesInvalid(self._archive, f"{target.name} in it is cut short")
        self._written_bytes += size_bytes

    def _check(self, size_bytes: int) -> None:
        if self._written_bytes + size_bytes > self._most_bytes:
            raise ModelFilesInvalid(
                self._archive,
                f"would grow to more than {self._most_bytes} bytes, {MOST_EXPANSION} times its size; no model does",
            )


def _unpack_zip(archive: Path, folder: Path, budget: _Budget, report: Report) -> None:
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        total_bytes = sum(entry.file_size for entry in entries)
        require_space(folder, total_bytes + SPARE_BYTES)
        done_bytes = 0
        for entry in entries:
            mode = entry.external_attr >> 16
            if entry.is_dir():
                continue
            if mode and not (S_ISREG(mode) or S_ISDIR(mode)) and mode >> 12:
                raise ModelFilesInvalid(archive, f"holds {entry.filename[:80]!r}, which is no plain file but a link")
            target = budget.admit(entry.filename, entry.file_size)
            report(done_bytes / max(1, total_bytes), "unpacking")
            with opened.open(entry) as content:
                budget.write(content, entry.file_size, target)
            done_bytes += entry.file_size


def _unpack_tar(archive: Path, folder: Path, budget: _Budget, report: Report) -> None:
    size_bytes = archive.stat().st_size
    with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r:*") as opened:
        for entry in opened:
            if entry.isdir():
                continue
            if not entry.isreg():
                raise ModelFilesInvalid(
                    archive, f"holds {entry.name[:80]!r}, which is no plain file but a link or device"
                )
            target = budget.admit(entry.name.removeprefix("./"), entry.size)
            report(min(1.0, file.tell() / max(1, size_bytes)), "unpacking")
            content = opened.extractfile(entry)
            assert content is not None, "a regular file has content"
            with content:
                budget.write(content, entry.size, target)


def _content_of(folder: Path) -> Path:
    """Most archives hold one folder with everything in it."""
    shutil.rmtree(folder / "__MACOSX", ignore_errors=True)  # what a Mac's Finder adds
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if len(entries) == 1 and entries[0].is_dir():
        return _content_of(entries[0])
    if len(entries) == 1 and entries[0].suffix.lower() == ".gguf":
        return entries[0]
    return folder


@contextmanager
def _broken_archives_explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise ModelFilesInvalid(archive, f"cannot be unpacked: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise ModelFilesInvalid(archive, "cannot be unpacked: it points before its beginning") from error
