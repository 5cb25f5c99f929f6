"""Runs `import_gguf` in a child process and passes on what it says. Does not import mlx."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store.store_folders import Report


class ImporterLine(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of the child's output: progress, or why it stops, or at the end the licence it found."""

    fraction: float = 0.0
    doing: str = ""
    error: str = ""
    file_is_invalid: bool = False
    licence: str = ""


def import_in_child(source: Path, destination: Path, lock_descriptor: int, report: Report) -> str:
    """Convert the GGUF `source` into the folder `destination`; blocks; returns the licence it names, or "".

    The child inherits `lock_descriptor`: should this process be killed, the lock stays taken until the
    child is gone too. Raises ModelFilesInvalid when the file is refused or kills the child, ModelStoreError
    for other failures, and what `report` raises; the child is dead when this returns or raises.
    """
    child = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
        [sys.executable, "-m", "gateway.model_store.import_gguf", str(source.absolute()), str(destination)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[lock_descriptor],
        # so that the child finds this very package, installed or not
        cwd=Path(__file__).parents[2],
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
        return last_line.licence
    if last_line.file_is_invalid:
        raise ModelFilesInvalid(source, last_line.error)
    if last_line.error:
        raise ModelStoreError(last_line.error)
    if exit_code == -signal.SIGKILL:
        # nothing in the file does that: the kernel when memory runs out, or a person
        raise ModelStoreError(
            f"{source}: the importer was killed, most likely because memory ran out; it needs "
            f"{source.stat().st_size} bytes and more. Free memory and try again."
        )
    if exit_code < 0:
        raise ModelFilesInvalid(
            source, f"the file is broken: the importer was killed by signal {-exit_code} while reading it"
        )
    raise ModelStoreError(f"{source}: the importer failed with exit code {exit_code}: {last_words}")


def _follow(child: "subprocess.Popen[str]", report: Report) -> tuple[ImporterLine, str]:
    """Pass on progress until the child closes its output; returns its last message and last other line."""
    last_line, last_words = ImporterLine(), "it said nothing"
    for text in child.stdout or ():
        try:
            last_line = msgspec.json.decode(text, type=ImporterLine)
        except msgspec.DecodeError:
            last_words = text.strip() or last_words  # a traceback, or a library complaining
            continue
        if not last_line.error:
            report(last_line.fraction, last_line.doing)
    return last_line, last_words
