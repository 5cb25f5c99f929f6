"""The one thread that touches the files of the prefix cache. It gets bytes and gives bytes, never arrays."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from gateway.prefix_cache.block_file import BlockHeader
from gateway.prefix_cache.extent import Blob, BlobKey
from gateway.prefix_cache.ssd_tier import SsdTier

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
OPEN_AGAIN_SECONDS = 10.0
"""Between attempts to open the folder; after a restart the old process may still hold it for a while."""

BLOB_BYTES = 1024
"""What a blob takes while it waits, beside its tokens and arrays."""


class SsdListener(Protocol):
    """Called on the SSD thread: hand over to your own."""

    def written(self, blob: Blob, nbytes: int) -> None:
        """A blob can be read from now on; `nbytes` are those of its file."""

    def gone(self, keys: Sequence[BlobKey]) -> None:
        """Blobs made room for others, or were removed."""

    def was_read(self, key: BlobKey, blob: Blob | None) -> None:
        """The answer to every `read`; None if it cannot be had."""


@dataclass(frozen=True, slots=True)
class _Command:
    """`give_up` is called instead if there is no disk, or after `run` if that failed: who waits must hear of it."""

    run: Callable[[SsdTier], None]
    give_up: Callable[[], None] = lambda: None


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

    def __init__(
        self,
        open_tier: Callable[[], SsdTier],
        queue_bytes: int,
        listener: SsdListener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`open_tier` is called on the thread; if it raises, nothing is kept on disk until it is called again."""
        self._open_tier = open_tier
        self._clock = clock
        self._tier: SsdTier | None = None
        self._open_at = 0.0
        self._stop_at = 0.0
        self._queue_bytes = queue_bytes
        self._listener = listener
        self._urgent: deque[_Command] = deque()
        self._writes: deque[Blob] = deque()
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

    def headers_of(self, namespace: bytes) -> "Future[list[tuple[BlockHeader, int]]]":
        """What there is of a namespace, with the bytes of each file; nothing if nothing is kept on disk."""
        headers: Future[list[tuple[BlockHeader, int]]] = Future()
        self._ask(
            _Command(lambda tier: headers.set_result(list(tier.headers_of(namespace))), lambda: headers.set_result([]))
        )
        return headers

    def store(self, blob: Blob) -> bool:
        """Writes a blob soon; False if too much waits already."""
        with self._changed:
            if self._closed or self._stopping or self._waiting_bytes + _size(blob) > self._queue_bytes:
                self._dropped += 1
                return False
            self._writes.append(blob)
            self._waiting_bytes += _size(blob)
            self._changed.notify()
        return True

    def read(self, keys: Sequence[BlobKey]) -> None:
        """`was_read` answers for each."""
        for key in keys:
            self._ask(_Command(partial(self._read, key), partial(self._listener.was_read, key, None)))

    def touch(self, keys: Sequence[BlobKey]) -> None:
        self._ask(_Command(lambda tier: tier.touch(keys)))

    def remove(self, namespace: bytes | None) -> None:
        """Removes a namespace's files, or all, and what waits to be written of it."""
        with self._changed:
            for blob in list(self._writes):
                if namespace in (None, blob.extent.namespace):
                    self._writes.remove(blob)
                    self._waiting_bytes -= _size(blob)
        self._ask(_Command(lambda tier: self._listener.gone(tier.remove(namespace))))

    def statistics(self) -> SsdStatistics:
        return self._statistics

    def stop(self) -> None:
        """Writes what waits, for `STOP_SECONDS` at most. Blocks until then."""
        with self._changed:
            self._stopping = True
            self._stop_at = self._clock() + STOP_SECONDS
            self._changed.notify()
        self._thread.join(STOP_SECONDS + 1)
        if self._thread.is_alive() or self._writes:
            log.warning("not all that should be kept could be written to disk in %.0f s", STOP_SECONDS)

    def _ask(self, command: _Command) -> None:
        with self._changed:
            if not self._closed:
                self._urgent.append(command)
                self._changed.notify()
                return
        command.give_up()

    def _run(self) -> None:
        self._try_to_open()
        while (command := self._next()) is not None:
            if self._tier is None and self._clock() >= self._open_at:
                self._try_to_open()
            try:
                if self._tier is None:
                    command.give_up()
                else:
                    command.run(self._tier)
            except Exception:
                log.exception("a command of the prefix cache's disk failed; the next one follows")
                self._give_up(command)
            self._note()
        with self._changed:
            self._closed = True
            waiting = list(self._urgent)
            self._urgent.clear()
        for command in waiting:
            self._give_up(command)
        if self._tier is not None:
            self._tier.close()

    def _try_to_open(self) -> None:
        again = self._open_at > 0
        try:
            self._tier = self._open_tier()
        except Exception as error:  # noqa: BLE001  (whatever it is, those who ask must get their answers)
            self._open_at = self._clock() + OPEN_AGAIN_SECONDS
            if not again:
                log.warning("prefixes are kept in memory only until this is cured: %s", error)
        self._note()

    def _next(self) -> _Command | None:
        """The next command; waits for one. None when told to stop and nothing is left, or no time."""
        with self._changed:
            self._changed.wait_for(lambda: self._urgent or self._writes or self._stopping)
            if self._stopping and self._clock() >= self._stop_at:
                return None
            if self._urgent:
                return self._urgent.popleft()
            if not self._writes:
                return None
            blob = self._writes.popleft()
            return _Command(partial(self._write, blob), partial(self._drop, blob))

    def _give_up(self, command: _Command) -> None:
        try:
            command.give_up()
        except Exception:
            log.exception("nobody could be told that a command of the prefix cache's disk failed")

    def _read(self, key: BlobKey, tier: SsdTier) -> None:
        began = time.perf_counter()
        blob = tier.load(key)
        self._read_seconds += time.perf_counter() - began
        self._listener.was_read(key, blob)

    def _write(self, blob: Blob, tier: SsdTier) -> None:
        began = time.perf_counter()
        there, gone = tier.store(blob)
        self._write_seconds += time.perf_counter() - began
        with self._changed:
            self._waiting_bytes -= _size(blob)
        if gone:
            self._listener.gone(gone)
        if there:
            self._listener.written(blob, tier.file_bytes(blob.key))

    def _drop(self, blob: Blob) -> None:
        with self._changed:
            self._waiting_bytes -= _size(blob)
            self._dropped += 1

    def _note(self) -> None:
        if (tier := self._tier) is None:
            return
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


def _size(blob: Blob) -> int:
    return blob.nbytes + len(blob.extent.tokens) + BLOB_BYTES
