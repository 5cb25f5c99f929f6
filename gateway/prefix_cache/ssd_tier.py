"""Blobs as files of one folder, within a limit. Belongs to the SSD thread.

Invariants:

- The files take no more than `limit_bytes`, the one that is being written included; room is made before it is written.
- Nothing is written that would leave less than `free_floor_bytes` of the disk free; own files go first to keep that.
- What is read is exactly what was written, or it is removed and counted.
- One process at a time uses a folder; files that are not its own are left alone.
- What a sequence goes on from does not leave before it.
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
from gateway.prefix_cache.extent import Blob, BlobKey, Extent, Part, chain_digests

log = logging.getLogger(__name__)

LOCK_NAME = "lock"
SLACK_SHARE = 50
"""When something must go, one part in so many of the limit is freed as well: choosing looks at every file."""

FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 600.0
"""Nothing is written for so long after the disk refused; doubled each time it refuses again."""


NOT_THE_FILES_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class FolderInUse(Exception):
    """Another process keeps its prefixes in this folder."""


class FolderOfOthers(Exception):
    """The folder holds files, and no cache ever was in it."""


@dataclass(slots=True)
class StoredFile:
    """`digests` are those that an extent which goes on from it may have as its parent."""

    path: Path
    namespace: bytes
    start: int
    parent: bytes
    digests: tuple[bytes, ...]
    nbytes: int
    used_ns: int  # since the epoch; also the file's time of change, so that it survives a restart


def stored_file(path: Path, extent: Extent, nbytes: int, used_ns: int) -> StoredFile:
    digests = tuple(chain_digests(extent.parent, extent.tokens))
    return StoredFile(path, extent.namespace, extent.start, extent.parent, digests, nbytes, used_ns)


def order_of_leaving(files: Iterable[tuple[BlobKey, StoredFile]]) -> list[BlobKey]:
    """Least recently used first; of those used together, the end of a sequence before its beginning.

    Keys and values that something goes on from count as used when that was: it is of no use without them.
    """
    from_the_end = sorted(files, key=lambda item: -item[1].start)
    extents = {digest: key.extent for key, file in from_the_end for digest in file.digests}
    needed_ns: dict[bytes, int] = {}
    order = []
    for key, file in from_the_end:
        used_ns = max(file.used_ns, needed_ns.get(key.extent, 0) if key.part is Part.FULL else 0)
        order.append((used_ns, -file.start, key))
        if before := extents.get(file.parent):
            needed_ns[before] = max(used_ns, needed_ns.get(before, 0))
    return [key for *_, key in sorted(order)]


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
        """Makes the folder for its owner alone, and finds what is there.

        Raises OSError, `FolderInUse` or `FolderOfOthers`.
        """
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
        self._latest_ns = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / LOCK_NAME).exists() and any(folder.iterdir()):
            raise FolderOfOthers(f"{folder} holds files of others; set cache.directory to a folder that is empty")
        folder.chmod(0o700)
        self._lock = _locked(folder / LOCK_NAME)
        try:
            self._scan()
            self._evict(self.nbytes - limit_bytes, [])
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, key: BlobKey) -> bool:
        return key in self._files

    def file_bytes(self, key: BlobKey) -> int:
        return self._files[key].nbytes

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
        evicted: list[BlobKey] = []
        path = self._path(blob.key)
        now = self._now_ns()
        try:
            if self.paused or needed > self.limit_bytes or not self._make_room(needed, evicted):
                self.refused += 1
                return False, evicted
            block_file.write(path, blob, self._cipher, now)
        except OSError as error:
            self.refused += 1
            self._pause(error)
            return False, evicted
        self._pause_seconds = 0.0
        self.written += 1
        self._add(blob.key, stored_file(path, blob.extent, needed, now))
        return True, evicted

    def load(self, key: BlobKey) -> Blob | None:
        """The blob, as it was written; None if it cannot be had now. If the file is to blame it is removed."""
        if (file := self._files.get(key)) is None:
            return None
        try:
            blob = block_file.read(file.path, self._cipher)
            if blob.key != key:
                raise BadBlockFile(Flaw.MISPLACED, "it holds another blob than its name says")
        except (BadBlockFile, OSError) as error:
            if not (isinstance(error, OSError) and error.errno in NOT_THE_FILES_FAULT):
                self._discard(key, error)
            return None
        return blob

    def touch(self, keys: Iterable[BlobKey]) -> None:
        """Notes that they were of use."""
        now = self._now_ns()
        for key in keys:
            if file := self._files.get(key):
                file.used_ns = now
                with suppress(OSError):  # its recency is lost with a restart, nothing else
                    os.utime(file.path, ns=(now, now))

    def remove(self, namespace: bytes | None) -> list[BlobKey]:
        """Removes a namespace's files, or all; returns what went."""
        going = [key for key, file in self._files.items() if namespace in (None, file.namespace)]
        for key in going:
            try:
                self._remove(key)
            except OSError as error:
                log.warning("a file of the prefix cache could not be removed: %s", error)
        return [key for key in going if key not in self._files]

    # --- inside -----------------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        """Later than any before, also if the clock was set back."""
        self._latest_ns = max(time.time_ns(), self._latest_ns + 1)
        return self._latest_ns

    def _scan(self) -> None:
        for path in sorted(self._folder.iterdir()):
            if path.suffix != SUFFIX and path.name != UNFINISHED_NAME:
                continue
            try:
                if path.name == UNFINISHED_NAME:
                    raise BadBlockFile(Flaw.UNFINISHED, "it was being written when the process ended")
                header = block_file.read_header(path, self._cipher)
                if path != self._path(header.key):
                    raise BadBlockFile(Flaw.MISPLACED, "it holds another blob than its name says")
                status = path.stat()
            except (BadBlockFile, OSError) as error:
                self._count_and_unlink(path, error)
                continue
            self._latest_ns = max(self._latest_ns, status.st_mtime_ns)
            self._add(header.key, stored_file(path, header.extent, status.st_size, status.st_mtime_ns))

    def _make_room(self, needed: int, evicted: list[BlobKey]) -> bool:
        """Evicts, into `evicted`, until a file of so many bytes may be written; False if that cannot be."""
        lacking = self._lacking_bytes(needed)
        if lacking > self.nbytes:
            return False  # the disk is full with what others wrote
        self._evict(lacking, evicted)
        if lacking > 0 and self._lacking_bytes(needed) > 0:
            # Snapshots of the disk may hold on to what was removed: to go on would empty the cache for nothing.
            raise OSError(errno.ENOSPC, "removing files does not make room")
        return True

    def _lacking_bytes(self, needed: int) -> int:
        free_bytes = shutil.disk_usage(self._folder).free
        return max(self.nbytes + needed - self.limit_bytes, self._free_floor_bytes + needed - free_bytes)

    def _evict(self, wanted_bytes: int, evicted: list[BlobKey]) -> None:
        if wanted_bytes <= 0:
            return
        wanted_bytes += self.limit_bytes // SLACK_SHARE
        for key in order_of_leaving(self._files.items()):
            if wanted_bytes <= 0:
                break
            wanted_bytes -= self._files[key].nbytes
            self._remove(key)
            evicted.append(key)
            self.evicted += 1

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
        """Raises OSError, and then the file counts as before."""
        file = self._files[key]
        file.path.unlink(missing_ok=True)
        del self._files[key]
        self.nbytes -= file.nbytes

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
