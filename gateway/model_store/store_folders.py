"""Where things lie inside the store, and who may touch them.

    models/<name>     finished models; appear and disappear by rename only
    incoming/<name>   a model being made; belongs to whoever holds its lock
    locks/<name>      one empty file per model, locked with flock

The kernel drops a dead process's lock, so an `incoming` folder whose lock is free is a leftover.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from gateway.errors import ModelStoreError

Report = Callable[[float, str], None]
"""Told how far the work is, 0 to 1, and what it is doing; may be called from any thread. What it raises
stops the work."""

DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
REPLACED = "!replaced"  # a suffix that `folder_name` never makes
LONGEST_NAME = 200  # file systems allow 255 bytes; the rest is for suffixes


def folder_name(model_id: str) -> str:
    """A name for `model_id` that is one path component, the same each time, and unlike any other id's."""
    name = quote(model_id, safe=" ")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if not name or len(name) > LONGEST_NAME:
        ending = f"!{hashlib.sha256(model_id.encode()).hexdigest()}"  # quote never leaves a "!"
        name = name[: LONGEST_NAME - len(ending)] + ending
    return name


class StoreFolders:
    """The three folders under `root`. A root that does not exist is made for its owner alone (mode 0700)."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("models", "incoming", "locks"):
            (self.root / name).mkdir(exist_ok=True)

    def model(self, name: str) -> Path:
        return self.root / "models" / name

    def incoming(self, name: str) -> Path:
        return self.root / "incoming" / name

    @contextmanager
    def locked(self, name: str, report: Report) -> Iterator[int]:
        """Hold the model's lock, waiting for another holder; yields the lock's file descriptor.

        A child that inherits the descriptor keeps the lock after its parent's death.
        """
        descriptor = self._open_lock(name)
        try:
            if not _try_lock(descriptor):
                report(0.0, "waiting for another process that works on this model")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def publish(self, name: str) -> Path:
        """Make `incoming/<name>` the model, in place of an earlier one. The caller holds the lock."""
        incoming, model = self.incoming(name), self.model(name)
        for path in (*incoming.rglob("*"), incoming):
            _flush_to_disk(path)
        if model.exists():
            # a full folder cannot be renamed over; a crash in between costs a new import, not a wrong model
            replaced = self.incoming(f"{name}{REPLACED}")
            shutil.rmtree(replaced, ignore_errors=True)
            model.rename(replaced)
            incoming.rename(model)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            incoming.rename(model)
        _flush_to_disk(model.parent)
        return model

    def remove_leftovers(self) -> None:
        """Remove what killed imports left in `incoming`; skips what a living process still works on."""
        for leftover in (self.root / "incoming").iterdir():
            descriptor = self._open_lock(leftover.name.removesuffix(REPLACED))
            try:
                if _try_lock(descriptor):
                    shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(descriptor)

    def _open_lock(self, name: str) -> int:
        return os.open(self.root / "locks" / name, os.O_RDWR | os.O_CREAT, 0o600)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise ModelStoreError when the disk of `folder` has less than `needed_bytes` free."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ModelStoreError(
            f"{folder}: the model needs {needed_bytes} bytes and the disk has {free_bytes} free. "
            f"Free {needed_bytes - free_bytes} bytes, or put the model store on another disk."
        )


@contextmanager
def disk_errors_explained(root: Path) -> Iterator[None]:
    """Turn what the disk says into ModelStoreError with the place and, when it is full, the numbers."""
    try:
        yield
    except OSError as error:
        place = error.filename or root
        if error.errno not in DISK_IS_FULL:
            raise ModelStoreError(f"{place}: {error.strerror or error}") from error
        raise ModelStoreError(
            f"{place}: the disk is full, {shutil.disk_usage(root).free} bytes are free. Free some, or put "
            "the model store on another disk."
        ) from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
