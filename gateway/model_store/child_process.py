"""A module of this package in a child process that says its progress line by line. Does not import mlx."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from gateway.model_store.store_folders import Report


class ProgressLine(Protocol):
    """One line of the child's output: progress, or why it stops."""

    @property
    def fraction(self) -> float: ...

    @property
    def doing(self) -> str: ...

    @property
    def error(self) -> str: ...


Line = TypeVar("Line", bound=ProgressLine)


@dataclass(frozen=True, slots=True)
class ChildEnd(Generic[Line]):
    """`last_line` is the last one that was understood, `last_words` are those that were not, such as a traceback's."""

    exit_code: int
    last_line: Line
    last_words: str


def run_child(
    module: str, arguments: Sequence[str], silent: Line, lock_descriptor: int, report: Report
) -> ChildEnd[Line]:
    """Runs the module and passes on its progress; blocks. `silent` is the line of a child that says nothing.

    The child inherits `lock_descriptor`: should this process be killed, the lock stays taken until the child is gone
    too. Raises what `report` raises; the child is dead when this returns or raises.
    """
    child = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[lock_descriptor],
        cwd=Path(__file__).parents[2],  # so that the child finds this very package, installed or not
        text=True,
        errors="replace",
    )
    last_line, last_words = silent, "it said nothing"
    try:
        for text in child.stdout or ():
            try:
                last_line = msgspec.json.decode(text, type=type(silent))
            except msgspec.DecodeError:
                last_words = text.strip() or last_words
                continue
            if not last_line.error:
                report(last_line.fraction, last_line.doing)
        return ChildEnd(child.wait(), last_line, last_words)
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
