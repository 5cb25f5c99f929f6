"""Runs `optimise_main` in a child process and passes on what it says. Does not import mlx."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store.manifest import Source
from gateway.model_store.store_folders import Report


class OptimiserTask(msgspec.Struct, frozen=True):
    """`source` and `destination` are absolute folders; the rest is for the manifest of what is made."""

    source: str
    destination: str
    recipe: str
    name: str
    licence: str
    origin: Source


class OptimiserLine(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of the child's output: progress, or why it stops."""

    fraction: float = 0.0
    doing: str = ""
    error: str = ""
    files_are_invalid: bool = False


def optimise_in_child(task: OptimiserTask, lock_descriptor: int, report: Report) -> None:
    """Make the folder `task.destination`, its manifest included; blocks.

    The child inherits `lock_descriptor`: should this process be killed, the lock stays taken until the child is gone
    too, which is at its next word of progress. Raises `ModelFilesInvalid` when the model is refused, `ModelStoreError`
    for other failures, and what `report` raises; the child is dead when this returns or raises.
    """
    child = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
        [sys.executable, "-m", "gateway.model_store.optimise_main", msgspec.json.encode(task).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[lock_descriptor],
        cwd=Path(__file__).parents[2],  # so that the child finds this very package, installed or not
        text=True,
        errors="replace",
    )
    try:
        last_line, last_words = _follow(child, report)
        exit_code = child.wait()
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()

    if exit_code == 0:
        return
    if last_line.files_are_invalid:
        raise ModelFilesInvalid(Path(task.source), last_line.error)
    if last_line.error:
        raise ModelStoreError(last_line.error)
    if exit_code == -signal.SIGKILL:
        raise ModelStoreError(
            f"{task.source}: the process that worked on it was killed, most likely because memory ran out. Free some "
            "and try again."
        )
    raise ModelStoreError(
        f"{task.source}: the process that worked on it failed with exit code {exit_code}: {last_words}"
    )


def _follow(child: "subprocess.Popen[str]", report: Report) -> tuple[OptimiserLine, str]:
    """Pass on progress until the child closes its output; returns its last message and last other line."""
    last_line, last_words = OptimiserLine(), "it said nothing"
    for text in child.stdout or ():
        try:
            last_line = msgspec.json.decode(text, type=OptimiserLine)
        except msgspec.DecodeError:
            last_words = text.strip() or last_words  # what mlx-lm prints, or a traceback
            continue
        if not last_line.error:
            report(last_line.fraction, last_line.doing)
    return last_line, last_words
