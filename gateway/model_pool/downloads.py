"""The downloads that the operator asked the server for: a few at once, the others wait. Belongs to the event loop.

One that was accepted is noted in the store until it ends, and goes on at the next start if the server ends before it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import uuid4

from gateway.errors import DownloadNotKnown, GatewayError
from gateway.model_pool.background import in_background
from gateway.model_store.download_notes import DownloadNotes
from gateway.model_store.sources import HubSource
from gateway.model_store.store import ModelStore
from gateway.observability.log_line import SUCCESS

MOST_REMEMBERED = 100
"""Downloads that have ended."""

log = logging.getLogger(__name__)


class DownloadState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self not in (DownloadState.WAITING, DownloadState.RUNNING)


class Cancelled(Exception):
    """Raised in the download's thread: the operator wants it no more, or the server stops."""


@dataclass(slots=True)
class QueuedDownload:
    """`fraction` of it has arrived, 0 to 1; `doing` says in words what happens, or why it failed.

    `version` is the name of the stored version once it is done.
    """

    download_id: str
    source: HubSource
    trusted: bool = False
    state: DownloadState = DownloadState.WAITING
    fraction: float = 0.0
    doing: str = "waiting for other downloads"
    version: str = ""
    accepted_at: float = field(default_factory=time.time)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    stop: threading.Event = field(default_factory=threading.Event)

    def change(self, state: DownloadState, fraction: float, doing: str) -> None:
        self.state, self.fraction, self.doing = state, fraction, doing
        self.changed.set()
        self.changed = asyncio.Event()


class Downloads:
    """The queue; at most `max_at_once` downloads run."""

    def __init__(self, store: ModelStore, notes: DownloadNotes, max_at_once: int) -> None:
        self._store = store
        self._notes = notes
        self._free = asyncio.Semaphore(max_at_once)
        self._downloads: dict[str, QueuedDownload] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    def count(self, state: str) -> int:
        """How many of them are in this state."""
        return sum(download.state == state for download in self._downloads.values())

    @property
    def all(self) -> list[QueuedDownload]:
        """The latest last."""
        return list(self._downloads.values())

    def find(self, download_id: str) -> QueuedDownload:
        """Raises `DownloadNotKnown`."""
        try:
            return self._downloads[download_id]
        except KeyError:
            raise DownloadNotKnown(download_id) from None

    def resume(self) -> None:
        """What an earlier server accepted and did not end. Call it once, when the event loop runs."""
        for download_id, note in self._notes.read().items():
            self._begin(QueuedDownload(download_id, HubSource(note.repo_id, note.revision), note.trusted))

    def start(self, source: HubSource, *, trusted: bool = False) -> QueuedDownload:
        """Accept a download, or give the one of the same source that is not over.

        Raises `DownloadRefused` if the configuration forbids it, `ModelStoreError` if it cannot be noted.
        """
        self._store.require_allowed(source)
        for known in self._downloads.values():
            if known.source == source and known.trusted == trusted and not known.state.is_over:
                return known
        download = QueuedDownload(uuid4().hex[:12], source, trusted)
        self._notes.write(download.download_id, source, trusted)
        self._begin(download)
        return download

    async def cancel(self, download_id: str) -> QueuedDownload:
        """What has arrived is kept for another try. Waits until nothing more is written; one that is over stays so."""
        download = self.find(download_id)
        download.stop.set()
        if download.state is DownloadState.WAITING:
            self._end(download, DownloadState.CANCELLED, "cancelled before it began")
            self._tasks[download_id].cancel()
        while not download.state.is_over:
            await download.changed.wait()
        return download

    async def watch(self, download: QueuedDownload) -> AsyncIterator[QueuedDownload]:
        """At once, and again after each change, until it is over or the server stops."""
        while True:
            changed = download.changed
            yield download
            if download.state.is_over or self._stopping:
                return
            await changed.wait()

    def shut_down(self) -> None:
        """Their threads stop by themselves; the notes stay for the next start."""
        self._stopping = True
        for task in self._tasks.values():
            task.cancel()
        for download in self._downloads.values():
            download.stop.set()
            download.changed.set()

    def _begin(self, download: QueuedDownload) -> None:
        over = [known.download_id for known in self._downloads.values() if known.state.is_over]
        for forgotten in over[: max(0, len(over) - MOST_REMEMBERED)]:
            del self._downloads[forgotten]
        self._downloads[download.download_id] = download
        task = asyncio.create_task(self._run(download))
        self._tasks[download.download_id] = task
        task.add_done_callback(lambda _task: self._tasks.pop(download.download_id, None))

    async def _run(self, download: QueuedDownload) -> None:
        async with self._free:
            if download.state.is_over:
                return
            download.change(DownloadState.RUNNING, 0.0, "beginning")
            loop = asyncio.get_running_loop()

            def report(fraction: float, doing: str) -> None:
                if download.stop.is_set():
                    raise Cancelled
                loop.call_soon_threadsafe(self._progress, download, fraction, doing)

            def pull() -> str:
                return self._store.pull(download.source, report, trusted=download.trusted).name

            name = download.source.model_id
            try:
                download.version = await in_background(pull, "download")
            except Cancelled:
                self._end(download, DownloadState.CANCELLED, "cancelled; what has arrived is kept")
            except GatewayError as error:
                self._end(download, DownloadState.FAILED, str(error))
                log.warning("the download of %s failed: %s", name, error)
            except Exception:
                self._end(download, DownloadState.FAILED, "an unexpected error; see the server's log")
                log.exception("the download of %s failed", name)
            else:
                self._end(download, DownloadState.DONE, f"stored as version {download.version}, the current one")
                log.log(SUCCESS, "%s was downloaded as version %s", name, download.version)

    def _progress(self, download: QueuedDownload, fraction: float, doing: str) -> None:
        if not download.state.is_over:
            download.change(DownloadState.RUNNING, fraction, doing)

    def _end(self, download: QueuedDownload, state: DownloadState, doing: str) -> None:
        self._notes.remove(download.download_id)
        download.change(state, 1.0 if state is DownloadState.DONE else download.fraction, doing)
