"""What is left to read after a crash: the error, the last log lines, and the configuration without its secrets."""

import faulthandler
import logging
import os
import re
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import msgspec
from msgspec import Raw, Struct

from gateway.config import Config
from gateway.observability.log_book import LogBook
from gateway.observability.log_filter import LogFilter

FOLDER = "crashes"
MOST_EVENTS = 200
MOST_REPORTS = 20
SECRET = frozenset({"key", "headers", "token", "password"})
NAME = re.compile(r"crash-[\w.-]+\.json")
HARD = re.compile(r"hard-(\d+)\.txt")

log = logging.getLogger(__name__)


class CrashReport(Struct, frozen=True):
    """`time` in Unix seconds; `error` in one line; `events` are log lines, the oldest first."""

    time: float
    version: str
    error: str
    traceback: str
    events: list[Raw]
    config: dict[str, object]


class CrashSummary(Struct, frozen=True):
    name: str
    time: float
    version: str
    error: str


class CrashReports:
    """Any thread. Reports that cannot be written are told in the log."""

    def __init__(self, logs: Path, book: LogBook, config: Config) -> None:
        self._folder = logs / FOLDER
        self._book = book
        self._config = config

    def watch(self) -> None:
        """From now on crashes of this process leave a report; one that an earlier process could not write is written.

        faulthandler writes where the interpreter itself crashed.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._report_hard_crashes()
            # Open until the process ends, which removes what stayed empty at the next start.
            self._hard = (self._folder / f"hard-{os.getpid()}.txt").open("w")
            faulthandler.enable(self._hard)
        except OSError as error:
            log.warning("crashes leave no report: %s", error)
        threading.excepthook = self._thread_ended

    def write(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        self._write(f"{type(error).__name__}: {error}", text)

    def list_all(self) -> list[CrashSummary]:
        """The newest first. Blocks."""
        found = [(file.name, self.read(file.name)) for file in sorted(self._files(), reverse=True)]
        return [CrashSummary(name, one.time, one.version, one.error) for name, one in found if one]

    def read(self, name: str) -> CrashReport | None:
        """None if there is no such report. Blocks."""
        if not NAME.fullmatch(name):
            return None
        try:
            return msgspec.json.decode((self._folder / name).read_bytes(), type=CrashReport)
        except (OSError, msgspec.DecodeError):
            return None

    def _thread_ended(self, of: threading.ExceptHookArgs) -> None:
        error: BaseException | None = of.exc_value
        name = of.thread.name if of.thread else "?"
        log.error("the thread %s ended", name, exc_info=_as_info(error))
        if error:
            self.write(error)

    def _write(self, error: str, text: str) -> None:
        events = [Raw(line) for line in self._book.search(LogFilter(), MOST_EVENTS)]
        config = without_secrets(msgspec.to_builtins(self._config))
        report = CrashReport(time.time(), version("mlx-gateway"), error[:500], text, events, config)
        name = f"crash-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}.json"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "wb") as out:
                out.write(msgspec.json.encode(report))
            for old in sorted(self._files())[:-MOST_REPORTS]:
                old.unlink(missing_ok=True)
        except OSError as trouble:
            log.error("a crash could not be reported: %s", trouble)
        else:
            log.error("a crash was reported in %s", self._folder / name)

    def _report_hard_crashes(self) -> None:
        for file in self._folder.iterdir():
            named = HARD.fullmatch(file.name)
            if named and not _runs(int(named[1])):
                if text := file.read_text(errors="replace"):
                    self._write(text.splitlines()[0], text)
                file.unlink(missing_ok=True)

    def _files(self) -> Sequence[Path]:
        return list(self._folder.glob("crash-*.json"))


def without_secrets(value: dict[str, object]) -> dict[str, object]:
    """The same with "set" for every secret that there is."""

    def plain(name: str, inner: object) -> object:
        if name in SECRET:
            return "set" if inner else ""
        if isinstance(inner, dict):
            return {key: plain(key, one) for key, one in inner.items()}
        return [plain("", one) for one in inner] if isinstance(inner, list) else inner

    return {name: plain(name, inner) for name, inner in value.items()}


def _as_info(
    error: BaseException | None,
) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
    return (type(error), error, error.__traceback__) if error else None


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
