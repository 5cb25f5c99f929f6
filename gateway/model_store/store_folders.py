"""Where things lie inside the store, and who may touch them.

    models/<name>/<version>        finished models; see `model_versions`
    incoming/<name>                a model being made; belongs to whoever holds its lock
    incoming/<name>!!removed-...   on its way out; belongs to whoever holds the model's lock
    incoming/<name>!!download-...  what has arrived of a download, kept for the next try
    locks/<name>                   one empty file per model, locked with flock
    locks/<name>!!download         held by who downloads, which may take hours
    locks/<name>!!<version>        shared by the processes that use this version

The kernel drops a dead process's lock, so an `incoming` folder whose lock is free is a leftover, unless it is a
download's.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from gateway.errors import ModelStoreError
from gateway.model_store.manifest import read_manifest
from gateway.model_store.model_versions import ModelVersions, flush_to_disk, version_name

Report = Callable[[float, str], None]
"""Told how far the work is, 0 to 1, and what it is doing; may be called from any thread. What it raises
stops the work."""

DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
SUFFIX = "!!"  # `folder_name` makes no name that contains it
DOWNLOAD = f"{SUFFIX}download"
REMOVED = f"{SUFFIX}removed"
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

    def versions(self, name: str) -> ModelVersions:
        """To be used by whoever holds the model's lock."""
        return ModelVersions(self.root / "models" / name)

    def versions_now(self, name: str) -> ModelVersions:
        """To be looked at only, while somebody else may change them; nobody is waited for."""
        with self.locked_if_free(name) as free:
            if free:
                self.versions(name).adopt_flat_layout()
        return self.versions(name)

    def model(self, name: str) -> Path:
        """The folder of the current version; there is none at that place while no version is stored."""
        versions = self.versions(name)
        return versions.path(versions.current or "none")

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.root / "models").iterdir() if path.is_dir())

    def holds(self, folder: Path) -> bool:
        """Whether it is a version of a model of this store."""
        return folder.parent.parent == self.root / "models"

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
            self.versions(name).adopt_flat_layout()
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def locked_if_free(self, name: str) -> Iterator[bool]:
        """Hold the lock unless somebody else does; yields whether it is held."""
        descriptor = self._open_lock(name)
        try:
            yield _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def publish(self, name: str, *, make_current: bool = True) -> Path:
        """Make `incoming/<name>` a version of its model, and the current one; returns its folder.

        The caller holds the model's lock. A stored version of the same files may be damaged: this one takes its place.
        """
        model = name.partition(SUFFIX)[0]
        incoming, versions = self.incoming(name), self.versions(model)
        if versions.folder.is_symlink():
            raise ModelStoreError(f"{versions.folder} is a link, and the store keeps its models itself. Remove it.")
        for path in (*incoming.rglob("*"), incoming):
            flush_to_disk(path)
        versions.folder.mkdir(exist_ok=True)
        same, version = versions.free_name(version_name(read_manifest(incoming)))
        was_current = versions.current in same
        incoming.rename(versions.path(version))
        flush_to_disk(versions.folder)
        if make_current or was_current:
            versions.switch(version)
        for replaced in same:
            if not self.in_use(model, replaced):
                self.remove_version(model, replaced)
        return versions.path(version)

    def use(self, name: str, version: str) -> int:
        """A file descriptor that keeps the version from removal until it is closed; the caller holds the lock."""
        descriptor = self._open_lock(f"{name}{SUFFIX}{version}")
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def in_use(self, name: str, version: str) -> bool:
        """Whether any process uses it. Nobody begins to for as long as the caller holds the model's lock."""
        with self.locked_if_free(f"{name}{SUFFIX}{version}") as free:
            return not free

    def remove_version(self, name: str, version: str) -> None:
        """The caller holds the model's lock, and knows that nobody uses the version."""
        removed = self.incoming(f"{name}{REMOVED}-{version}")
        _delete(removed)
        with suppress(FileNotFoundError):
            self.versions(name).path(version).rename(removed)
        flush_to_disk(self.versions(name).folder)
        _delete(removed)
        (self.root / "locks" / f"{name}{SUFFIX}{version}").unlink(missing_ok=True)

    def remove_model(self, name: str) -> None:
        """In one step. The caller holds the model's lock, and knows that nobody uses a version."""
        removed = self.incoming(f"{name}{REMOVED}")
        _delete(removed)
        self.versions(name).folder.rename(removed)
        flush_to_disk(self.root / "models")
        _delete(removed)
        for lock in (self.root / "locks").iterdir():
            if lock.name.startswith(f"{name}{SUFFIX}") and lock.name != f"{name}{DOWNLOAD}":
                lock.unlink()

    def remove_leftovers(self) -> None:
        """Remove what killed imports left in `incoming`; skips what a living process still works on."""
        for leftover in (self.root / "incoming").iterdir():
            name, mark, suffix = leftover.name.partition(SUFFIX)
            if not f"{mark}{suffix}".startswith(DOWNLOAD):
                with self.locked_if_free(name) as free:
                    if free:
                        _delete(leftover)

    def unfinished_downloads(self) -> list[Path]:
        """What downloads left for the next try; some of them may be going on."""
        return [path for path in sorted((self.root / "incoming").iterdir()) if f"{DOWNLOAD}-" in path.name]

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


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
