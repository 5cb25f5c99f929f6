"""What was asked of which model by whom, in SQLite in the store; it never leaves the machine, and holds no word of any
prompt.

One thread writes, in batches: whoever tells of a request never waits, and a process that is killed loses the last
half second. A full disk keeps what is new in memory until there is room.
"""

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from contextlib import closing
from pathlib import Path

from gateway.observability.request_record import EndedRequest

FILE_NAME = "usage.sqlite3"
WRITE_SECONDS = 0.5
MOST_UNWRITTEN = 20_000
"""The oldest of more are lost."""

CLEAN_SECONDS = 3600.0
SECONDS_A_DAY = 86400.0
STOP_SECONDS = 5.0

COLUMNS = (
    "at REAL, request TEXT, endpoint TEXT, model TEXT, key_id TEXT, key TEXT, client TEXT, outcome TEXT, "
    "status INTEGER, finish_reason TEXT, prompt_tokens INTEGER, cached_tokens INTEGER, generated_tokens INTEGER, "
    "queue_seconds REAL, first_token_seconds REAL, seconds REAL"
)
NAMES = tuple(column.split()[0] for column in COLUMNS.split(", "))

log = logging.getLogger(__name__)


class UsageDatabase:
    """Any thread may tell it of requests."""

    def __init__(self, store: Path, retention_days: int) -> None:
        """`retention_days` 0 keeps everything."""
        self.file = store / FILE_NAME
        self._retention_seconds = retention_days * SECONDS_A_DAY
        self._unwritten: deque[EndedRequest] = deque(maxlen=MOST_UNWRITTEN)
        self._changed = threading.Condition()
        self._hurry = self._ended = self._told = False
        self._writes = 0
        self._cleaned_at = 0.0
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, request: EndedRequest) -> None:
        with self._changed:
            self._unwritten.append(request)

    def flush(self) -> None:
        """Waits until all that was added is written, or cannot be. Blocks for a moment."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            before = self._writes
            self._changed.wait_for(lambda: self._writes > before + 1 or not self._unwritten, STOP_SECONDS)

    def stop(self) -> None:
        """Writes what is left. Blocks for a moment."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._ended:
            with self._changed:
                self._changed.wait_for(lambda: self._hurry or self._ended, WRITE_SECONDS)
                self._hurry = False
            self._write()

    def _write(self) -> None:
        with self._changed:
            batch = list(self._unwritten)
        due = time.time() - self._cleaned_at > CLEAN_SECONDS
        written = 0
        if batch or due:
            try:
                self._insert(batch, due)
                written, self._told = len(batch), False
            except (sqlite3.Error, OSError) as error:
                self._tell(error)
        with self._changed:
            for _ in range(written):
                self._unwritten.popleft()
            self._writes += 1
            self._changed.notify_all()

    def _insert(self, batch: list[EndedRequest], due: bool) -> None:
        """Opened each time, so that a file that was removed or replaced is no trouble."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.file, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(self.file, timeout=2.0)) as database:
            try:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("PRAGMA synchronous=NORMAL")
                database.execute(f"CREATE TABLE IF NOT EXISTS requests ({COLUMNS})")
                database.execute("CREATE INDEX IF NOT EXISTS requests_at ON requests (at)")
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # no database: put aside, the next batch begins a new one
                self.file.replace(self.file.with_name(f"{FILE_NAME}.broken"))
                raise
            marks = ", ".join("?" * len(NAMES))
            with database:
                database.executemany(f"INSERT INTO requests VALUES ({marks})", map(_row, batch))  # noqa: S608
                if due and self._retention_seconds:
                    database.execute("DELETE FROM requests WHERE at < ?", (time.time() - self._retention_seconds,))
        self._cleaned_at = time.time() if due else self._cleaned_at

    def _tell(self, error: Exception) -> None:
        if not self._told:
            log.warning("usage cannot be written to %s, and is tried again: %s", self.file, error)
        self._told = True


def _row(request: EndedRequest) -> tuple[object, ...]:
    row: tuple[object, ...] = (request.started_at, request.id)
    names = NAMES[2:]
    return tuple(
        value.encode(errors="replace").decode() if isinstance(value, str) else value
        for value in (*row, *(getattr(request, name) for name in names))
    )
