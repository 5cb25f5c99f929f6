"""Runs `optimise_main` in a child process and passes on what it says. Does not import mlx."""

import signal
from pathlib import Path

import msgspec

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store.child_process import run_child
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
    arguments = [msgspec.json.encode(task).decode()]
    end = run_child("gateway.model_store.optimise_main", arguments, OptimiserLine(), lock_descriptor, report)
    last_line, exit_code = end.last_line, end.exit_code
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
        f"{task.source}: the process that worked on it failed with exit code {exit_code}: {end.last_words}"
    )
