"""Blobs as files of one folder, within a limit. Belongs to the SSD thread.

Invariants:

- The files take no more than `limit_bytes`, the one that is being written included; room is made before it is written.
- Nothing is written that would leave less than `free_floor_bytes` of the disk free; own files go first to keep that.
- What is read is exactly what was written, or it is removed and counted.
- One process at a time uses a folder.
"""

import errno
import fcntl
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.prefix_cache import block_file
from gateway.prefix_cache.block_file import SUFFIX, UNFINISHED_NAME, BadBlockFile, BlockHeader, Flaw
from gateway.prefix_cache.cipher import Cipher
from gateway.prefix_cache.extent import Blob, BlobKey

log = logging.getLogger(__name__)

LOCK_NAME = "lock"
SLACK_SHARE = 50
"""When something must go, one part in so many of the limit is freed as well: choosing looks at every file."""

FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 600.0
"""Nothing is written for so long after the disk refused; doubled each time it refuses again."""


class FolderInUse(Exception):
    """Another process keeps its prefixes in this folder."""


@dataclass(slots=True)
class StoredFile:
    path: Path
    namespace: bytes
    start: int
    nbytes: int
    used_ns: int  # since the epoch; also the file's time of change, so that it survives a restart


def order_of_leaving(files: Iterable[tuple[BlobKey, StoredFile]]) -> list[BlobKey]:
    """Least recently used first; of those used together, the end of a sequence before its beginning."""
    return [key for key, file in sorted(files, key=lambda item: (item[1].used_ns, -item[1].start))]


class SsdTier:
    """`removed` counts files that were of no use, by what was wrong with them."""

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        free_floor_bytes: int,
        cipher: Cipher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes the folder for its owner alone, and finds what is there. Raises OSError, or `FolderInUse`."""
        self.limit_bytes = limit_bytes
        self.nbytes = 0
        self.written = 0
        self.evicted = 0
        self.refused = 0
        self.removed: Counter[str] = Counter()
        self._folder = folder
        self._free_floor_bytes = free_floor_bytes
        self._cipher = cipher
        self._clock = clock
        self._files: dict[BlobKey, StoredFile] = {}
        self._pause_seconds = 0.0
        self._paused_until = 0.0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._lock = _locked(folder / LOCK_NAME)
        self._scan()
        self._evict(self.nbytes - limit_bytes)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, key: BlobKey) -> bool:
        return key in self._files

    @property
    def paused(self) -> bool:
        """The disk refused lately, so nothing is written for a while."""
        return self._clock() < self._paused_until

    def close(self) -> None:
        """Another process may use the folder from now on."""
        os.close(self._lock)

    def headers_of(self, namespace: bytes) -> Iterator[tuple[BlockHeader, int]]:
        """What there is of a namespace, with the bytes of each file."""
        for key, file in list(self._files.items()):
            if file.namespace == namespace:
                try:
                    yield block_file.read_header(file.path, self._cipher), file.nbytes
                except (BadBlockFile, OSError) as error:
                    self._discard(key, error)

    def store(self, blob: Blob) -> tuple[bool, list[BlobKey]]:
        """Writes a blob if there is room for it; True if it is there now, and what had to go for it."""
        if blob.key in self._files:
            return True, []
        needed = block_file.file_bytes(blob)
        evicted = None if self.paused or needed > self.limit_bytes else self._make_room(needed)
        if evicted is None:
            self.refused += 1
            return False, []
        path = self._path(blob.key)
        now = time.time_ns()
        try:
            block_file.write(path, blob, self._cipher, now)
        except OSError as error:
            self.refused += 1
            self._pause(error)
            return False, evicted
        self._pause_seconds = 0.0
        self.written += 1
        self._add(blob.key, StoredFile(path, blob.extent.namespace, blob.extent.start, needed, now))
        return True, evicted

    def load(self, key: BlobKey) -> Blob | None:
        """The blob, as it was written; None if it is not there or of no use, and then it is gone."""
        if (file := self._files.get(key)) is None:
            return None
        try:
            blob = block_file.read(file.path, self._cipher)
            if blob.key != key:
                raise BadBlockFile(Flaw.MISPLACED, "it holds another blob than its name says")
        except (BadBlockFile, OSError) as error:
            self._discard(key, error)
            return None
        return blob

    def touch(self, keys: Iterable[BlobKey]) -> None:
        """Notes that they were of use."""
        now = time.time_ns()
        for key in keys:
            if file := self._files.get(key):
                file.used_ns = now
                with suppress(OSError):  # its recency is lost with a restart, nothing else
                    os.utime(file.path, ns=(now, now))

    def remove(self, namespace: bytes | None) -> list[BlobKey]:
        """Removes a namespace's files, or all; returns what went."""
        going = [key for key, file in self._files.items() if namespace in (None, file.namespace)]
        for key in going:
            self._remove(key)
        return going

    # --- inside -----------------------------------------------------------------------------------------

    def _scan(self) -> None:
        for entry in os.scandir(self._folder):
            path = Path(entry.path)
            if path.name == LOCK_NAME:
                continue
            try:
                if path.suffix != SUFFIX:
                    raise BadBlockFile(Flaw.UNFINISHED, "not a whole file of this cache")
                header = block_file.read_header(path, self._cipher)
                if path != self._path(header.key):
                    raise BadBlockFile(Flaw.MISPLACED, "it holds another blob than its name says")
                status = path.stat()
            except (BadBlockFile, OSError) as error:
                self._count_and_unlink(path, error)
                continue
            extent = header.extent
            self._add(header.key, StoredFile(path, extent.namespace, extent.start, status.st_size, status.st_mtime_ns))

    def _make_room(self, needed: int) -> list[BlobKey] | None:
        """Evicts until a file of so many bytes may be written; None if that cannot be."""
        lacking = self.nbytes + needed - self.limit_bytes
        try:
            lacking = max(lacking, self._free_floor_bytes + needed - shutil.disk_usage(self._folder).free)
        except OSError as error:
            self._pause(error)
            return None
        if lacking > self.nbytes:
            return None  # the disk is full with what others wrote
        return self._evict(lacking)

    def _evict(self, wanted_bytes: int) -> list[BlobKey]:
        if wanted_bytes <= 0:
            return []
        going: list[BlobKey] = []
        wanted_bytes += self.limit_bytes // SLACK_SHARE
        for key in order_of_leaving(self._files.items()):
            if wanted_bytes <= 0:
                break
            wanted_bytes -= self._files[key].nbytes
            self._remove(key)
            going.append(key)
        self.evicted += len(going)
        return going

    def _pause(self, error: OSError) -> None:
        self._pause_seconds = min(LONGEST_PAUSE_SECONDS, 2 * self._pause_seconds or FIRST_PAUSE_SECONDS)
        self._paused_until = self._clock() + self._pause_seconds
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        log.warning(
            "%s (%s): no prefixes are written to %s for %.0f s; what is there can still be read",
            "the disk is full" if full else "the disk refuses",
            error.strerror or error,
            self._folder,
            self._pause_seconds,
        )

    def _add(self, key: BlobKey, file: StoredFile) -> None:
        self._files[key] = file
        self.nbytes += file.nbytes

    def _remove(self, key: BlobKey) -> None:
        file = self._files.pop(key)
        self.nbytes -= file.nbytes
        with suppress(FileNotFoundError):
            file.path.unlink()

    def _discard(self, key: BlobKey, error: BadBlockFile | OSError) -> None:
        file = self._files.pop(key)
        self.nbytes -= file.nbytes
        self._count_and_unlink(file.path, error)

    def _count_and_unlink(self, path: Path, error: BadBlockFile | OSError) -> None:
        missing = isinstance(error, FileNotFoundError)
        flaw = error.flaw if isinstance(error, BadBlockFile) else Flaw.MISSING if missing else Flaw.UNREADABLE
        self.removed[flaw.value] += 1
        if path.name != UNFINISHED_NAME:
            log.warning("a file of the prefix cache is of no use and removed: %s", error)
        with suppress(OSError):
            path.unlink()

    def _path(self, key: BlobKey) -> Path:
        return self._folder / f"{self._cipher.file_name(key)}{SUFFIX}"


def _locked(path: Path) -> int:
    """A lock that ends with the process, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise FolderInUse(f"{path.parent} is in use by another process") from None
    return descriptor
