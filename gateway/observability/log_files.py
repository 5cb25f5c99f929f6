"""Log lines on disk, in files that are rotated. Written by a thread of its own: nobody waits for the disk.

A full disk loses lines and nothing else. Each server that runs takes names of its own.
"""

import fcntl
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOST_WAITING = 50_000
MOST_SERVERS = 16
BLOCK_BYTES = 1 << 20
STOP_SECONDS = 2.0


class LogFiles:
    """`files` of at most about `file_bytes` each, the current one included."""

    def __init__(self, directory: Path, file_bytes: int, files: int) -> None:
        """Raises `OSError` where no files can be kept."""
        self.directory = directory
        self._file_bytes = file_bytes
        self._files = files
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock, self._path = _own_name(directory)
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._broken_off = _is_broken_off(self._path)
        self._thread = threading.Thread(target=self._run, name="log-files", daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """Any thread. A line for which there is no room is lost."""
        with suppress(queue.Full):
            self._waiting.put_nowait(line)

    def stop(self) -> None:
        """Writes what waits, for at most two seconds."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(STOP_SECONDS)
        os.close(self._lock)

    def lines_backwards(self) -> Iterator[bytes]:
        """The newest first. A file that is rotated meanwhile is read once."""
        seen: set[int] = set()
        for number in range(self._files):
            try:
                with self._numbered(number).open("rb") as file:
                    inode = os.fstat(file.fileno()).st_ino
                    if inode not in seen:
                        seen.add(inode)
                        yield from _backwards(file.fileno())
            except OSError:
                continue

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = [self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            ended = None in batch
            lines = [line for line in batch if line is not None]
            try:
                self._write(b"".join(line + b"\n" for line in lines))
            except OSError:
                self._broken_off = True  # the next batch may find room

    def _write(self, data: bytes) -> None:
        """Opened each time: whoever removes or moves the file gets a new one."""
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if self._broken_off:
                data = b"\n" + data
            while data:
                data = data[os.write(file, data) :]
            self._broken_off = False
            full = os.fstat(file).st_size >= self._file_bytes
        finally:
            os.close(file)
        if full:
            self._rotate()

    def _rotate(self) -> None:
        for number in range(self._files - 1, 0, -1):
            if self._numbered(number - 1).exists():
                self._numbered(number - 1).replace(self._numbered(number))
        self._path.unlink(missing_ok=True)  # the only one there may be

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


def _own_name(directory: Path) -> tuple[int, Path]:
    """The first that no running server has; the lock goes with the process."""
    for number in range(1, MOST_SERVERS + 1):
        path = directory / ("server.jsonl" if number == 1 else f"server-{number}.jsonl")
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return lock, path
    raise OSError(f"{MOST_SERVERS} servers log to {directory} already")


def _is_broken_off(path: Path) -> bool:
    """A process that was killed may have left half a line."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False


def _backwards(file: int) -> Iterator[bytes]:
    end, rest = os.fstat(file).st_size, b""
    while end > 0:
        begin = max(0, end - BLOCK_BYTES)
        lines = (os.pread(file, end - begin, begin) + rest).split(b"\n")
        rest, end = lines[0], begin
        yield from (line for line in reversed(lines[1:]) if line)
    if rest:
        yield rest
