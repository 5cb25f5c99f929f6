"""Runs what reads foreign files in a child process and passes on what it says. Does not import mlx."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gateway.errors import GatewayError, ModelFilesInvalid, ModelStoreError
from gateway.model_store.child_process import run_child
from gateway.model_store.store_folders import Report

NICENESS = 10


class ImporterLine(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of the child's output: progress, or why it stops, or at the end what it found."""

    fraction: float = 0.0
    doing: str = ""
    error: str = ""
    invalid_path: str = ""
    licence: str = ""
    checked: list[str] = []


def import_in_child(source: Path, destination: Path, lock_descriptor: int, report: Report) -> str:
    """Make a model folder of `source` in the folder `destination`; returns the licence it names, or "".

    Blocks, and raises as `run_in_child` does.
    """
    arguments = [str(source.absolute()), str(destination)]
    return run_in_child(
        "gateway.model_store.import_model", arguments, source, destination, lock_descriptor, report
    ).licence


def try_in_child(folder: Path, source: Path, lock_descriptor: int, report: Report) -> list[str]:
    """Load the model of `folder`, made of `source`, and compute with it; returns what was found to be sound.

    Blocks, and raises as `run_in_child` does.
    """
    return run_in_child("gateway.model_pool.trial", [str(folder)], source, folder, lock_descriptor, report).checked


def run_in_child(
    module: str, arguments: Sequence[str], source: Path, making: Path, lock_descriptor: int, report: Report
) -> ImporterLine:
    """Run a module that `answer_parent`s, and return the last line it said; blocks. `making` is the folder it works in.

    The child inherits `lock_descriptor`: should this process be killed, the lock stays taken until the
    child is gone too. Raises ModelFilesInvalid when `source` is refused or kills the child, ModelStoreError
    for other failures, and what `report` raises; the child is dead when this returns or raises.
    """
    end = run_child(module, arguments, ImporterLine(), lock_descriptor, report)
    last_line, exit_code = end.last_line, end.exit_code
    if exit_code == 0:
        return last_line
    if last_line.invalid_path:
        path = Path(last_line.invalid_path)  # a file of the source, or of the folder being made, which nobody knows
        raise ModelFilesInvalid(path if path.is_relative_to(source.absolute()) else source, last_line.error)
    if last_line.error:
        raise ModelStoreError(last_line.error.replace(str(making), str(source)))
    if exit_code == -signal.SIGKILL:
        # nothing in the file does that: the kernel when memory runs out, or a person
        raise ModelStoreError(
            f"{source}: the importer was killed, most likely because memory ran out; it needs "
            f"{_size_bytes(source)} bytes and more. Free memory and try again."
        )
    if exit_code < 0:
        raise ModelFilesInvalid(
            source, f"the file is broken: the importer was killed by signal {-exit_code} while reading it"
        )
    raise ModelStoreError(f"{source}: the importer failed with exit code {exit_code}: {end.last_words}")


def _size_bytes(source: Path) -> int:
    return max(path.stat().st_size for path in (source, *source.glob("*")))


def answer_parent(work: Callable[[Report], ImporterLine]) -> int:
    """The child's side: do the work, and say its progress and outcome line by line; returns the exit code."""
    os.nice(NICENESS)  # somebody may be served beside it
    try:
        _say(work(lambda fraction, doing: _say(ImporterLine(fraction, doing))))
    except ModelFilesInvalid as error:
        _say(ImporterLine(error=str(error).removeprefix(f"{error.path}: "), invalid_path=str(error.path)))
        return 1
    except GatewayError as error:
        _say(ImporterLine(error=str(error)))
        return 1
    return 0


def _say(line: ImporterLine) -> None:
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()
