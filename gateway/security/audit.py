"""What operators did: one JSON object a line, on disk before the answer leaves."""

import os
import time
from pathlib import Path

import msgspec

ROTATED_BYTES = 16 * 2**20


class AuditLine(msgspec.Struct, frozen=True):
    """`time` is in seconds since 1970, `outcome` the HTTP status. Neither bodies nor keys are in it."""

    time: float
    key_id: str
    key_name: str
    address: str
    action: str
    target: str
    outcome: int


class AuditLog:
    """Only ever appended to; a full file is put aside under its time and never removed. Any one thread at a time."""

    def __init__(self, directory: Path, rotated_bytes: int = ROTATED_BYTES) -> None:
        self._file = directory / "audit.jsonl"
        self._rotated_bytes = rotated_bytes

    def append(self, line: AuditLine) -> None:
        """Raises `OSError`."""
        self._rotate()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._file, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            end = os.fstat(file).st_size
            torn = end > 0 and os.pread(file, 1, end - 1) != b"\n"  # by a crash
            os.write(file, b"\n" * torn + msgspec.json.encode(line) + b"\n")
            os.fsync(file)
        finally:
            os.close(file)

    def latest(self, count: int) -> list[AuditLine]:
        """Newest first, of the current file; lines that a crash cut short are left out. Raises `OSError`."""
        try:
            raw = self._file.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        lines: list[AuditLine] = []
        for text in reversed(raw):
            if len(lines) == count:
                break
            try:
                lines.append(msgspec.json.decode(text, type=AuditLine))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        return lines

    def _rotate(self) -> None:
        if self._file.exists() and self._file.stat().st_size >= self._rotated_bytes:
            self._file.rename(self._file.with_name(f"audit-{time.time_ns()}.jsonl"))
