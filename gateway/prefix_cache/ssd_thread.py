"""The one thread that touches the files of the prefix cache. It gets bytes and gives bytes, never arrays."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from gateway.prefix_cache.block_file import BlockHeader
from gateway.prefix_cache.extent import Blob, BlobKey
from gateway.prefix_cache.ssd_tier import FolderInUse, SsdTier

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0

Headers = Future[list[tuple[BlockHeader, int]]]
"""Of blobs, with the bytes of each file."""


class SsdListener(Protocol):
    """Called on the SSD thread: hand over to your own."""

    def written(self, blob: Blob, nbytes: int) -> None:
        """A blob can be read from now on."""

    def gone(self, keys: Sequence[BlobKey]) -> None:
        """Blobs made room for others, or were removed."""

    def was_read(self, key: BlobKey, blob: Blob | None) -> None:
        """The answer to every `read`; None if it cannot be had, and then it is gone."""


@dataclass(frozen=True, slots=True)
class SsdStatistics:
    """`written` and `evicted` count blobs; `dropped` those that were not written. `paused`: the disk refused lately."""

    bytes: int = 0
    limit_bytes: int = 0
    files: int = 0
    waiting_bytes: int = 0
    written: int = 0
    evicted: int = 0
    dropped: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    read_seconds: float = 0.0
    write_seconds: float = 0.0
    paused: bool = False


class SsdThread:
    """Any thread may call it, and never waits. Reads go before writes; of these at most `queue_bytes` wait."""

    def __init__(self, open_tier: Callable[[], SsdTier], queue_bytes: int, listener: SsdListener) -> None:
        """`open_tier` is called on the thread; if it raises, nothing is kept on disk."""
        self._open_tier = open_tier
        self._queue_bytes = queue_bytes
        self._listener = listener
        self._urgent: deque[Callable[[SsdTier], None]] = deque()
        self._writes: deque[Blob] = deque()
        self._indexing: deque[Headers] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._read_seconds = 0.0
        self._write_seconds = 0.0
        self._stopping = False
        self._closed = False
        self._statistics = SsdStatistics()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ssd-cache", daemon=True)
        self._thread.start()

    def headers_of(self, namespace: bytes) -> Headers:
        """What there is of a namespace, with the bytes of each file; nothing if nothing is kept on disk."""
        headers: Headers = Future()
        self._indexing.append(headers)
        if not self._ask(lambda tier: self._tell_headers(tier, namespace, headers)):
            self._end_indexing()
        return headers

    def store(self, blob: Blob) -> bool:
        """Writes a blob soon; False if too much waits already."""
        with self._changed:
            if self._closed or self._stopping or self._waiting_bytes + blob.nbytes > self._queue_bytes:
                self._dropped += 1
                return False
            self._writes.append(blob)
            self._waiting_bytes += blob.nbytes
            self._changed.notify()
        return True

    def read(self, keys: Sequence[BlobKey]) -> None:
        """`was_read` answers for each."""
        for key in keys:
            if not self._ask(lambda tier, key=key: self._read(tier, key)):  # type: ignore[misc]
                self._listener.was_read(key, None)

    def touch(self, keys: Sequence[BlobKey]) -> None:
        self._ask(lambda tier: tier.touch(keys))

    def remove(self, namespace: bytes | None) -> None:
        """Removes a namespace's files, or all, and what waits to be written of it."""
        with self._changed:
            kept = [blob for blob in self._writes if namespace not in (None, blob.extent.namespace)]
            self._writes = deque(kept)
            self._waiting_bytes = sum(blob.nbytes for blob in kept)
        self._ask(lambda tier: self._listener.gone(tier.remove(namespace)))

    def statistics(self) -> SsdStatistics:
        return self._statistics

    def stop(self) -> None:
        """Writes what waits, for `STOP_SECONDS` at most. Blocks until then."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            log.warning("not all that should be kept could be written to disk in %.0f s", STOP_SECONDS)

    def _ask(self, command: Callable[[SsdTier], None]) -> bool:
        with self._changed:
            if self._closed:
                return False
            self._urgent.append(command)
            self._changed.notify()
        return True

    def _run(self) -> None:
        try:
            tier = self._open_tier()
        except (OSError, FolderInUse) as error:
            log.warning("prefixes are kept in memory only: %s", error)
            self._close()
            self._end_indexing()
            return
        self._note(tier)
        while (command := self._next()) is not None:
            try:
                command(tier)
            except Exception:
                log.exception("a command of the prefix cache's disk failed; the next one follows")
            self._note(tier)
        for command in self._close():  # who waits for a read must hear of it
            command(tier)
        tier.close()

    def _next(self) -> Callable[[SsdTier], None] | None:
        """The next command; waits for one. None when told to stop and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._urgent or self._writes or self._stopping)
            if self._urgent:
                return self._urgent.popleft()
            if not self._writes:
                return None
            blob = self._writes.popleft()
            return lambda tier: self._write(tier, blob)

    def _tell_headers(self, tier: SsdTier, namespace: bytes, headers: Headers) -> None:
        found: list[tuple[BlockHeader, int]] = []
        try:
            found += tier.headers_of(namespace)
        finally:
            headers.set_result(found)
            self._indexing.remove(headers)

    def _end_indexing(self) -> None:
        """Whoever waits for an index hears that there is none."""
        while self._indexing:
            self._indexing.popleft().set_result([])

    def _close(self) -> list[Callable[[SsdTier], None]]:
        """From now on nothing is taken on; returns what was asked last."""
        with self._changed:
            self._closed = True
            waiting = list(self._urgent)
            self._urgent.clear()
            self._writes.clear()
            self._waiting_bytes = 0
        return waiting

    def _read(self, tier: SsdTier, key: BlobKey) -> None:
        began = time.perf_counter()
        blob = None
        try:
            blob = tier.load(key)
        finally:
            self._read_seconds += time.perf_counter() - began
            self._listener.was_read(key, blob)

    def _write(self, tier: SsdTier, blob: Blob) -> None:
        began = time.perf_counter()
        try:
            there, gone = tier.store(blob)
        finally:
            with self._changed:
                self._waiting_bytes = max(0, self._waiting_bytes - blob.nbytes)
            self._write_seconds += time.perf_counter() - began
        if gone:
            self._listener.gone(gone)
        if there:
            self._listener.written(blob, blob.nbytes)

    def _note(self, tier: SsdTier) -> None:
        with self._changed:
            self._statistics = SsdStatistics(
                tier.nbytes,
                tier.limit_bytes,
                len(tier),
                self._waiting_bytes,
                tier.written,
                tier.evicted,
                self._dropped + tier.refused,
                dict(tier.removed),
                self._read_seconds,
                self._write_seconds,
                tier.paused,
            )
