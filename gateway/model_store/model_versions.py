"""The versions of one model, side by side in its folder, and which of them is current.

    <version>/       one version: its files and their manifest; appears and disappears by rename only
    versions.json    the current version and those that were current before it; replaced by rename

A small file and no symbolic link: what is current and what a rollback goes to must change in one step. Belongs to
whoever holds the model's lock.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from gateway.errors import ModelFilesInvalid, NotStored
from gateway.model_store.manifest import MANIFEST_NAME, Manifest, files_are_whole, read_manifest

POINTER_NAME = "versions.json"
DIGITS = 12


class Pointer(msgspec.Struct, frozen=True):
    """`earlier` were current before, the latest last."""

    current: str
    earlier: list[str] = []


def version_name(manifest: Manifest) -> str:
    """From where the version came and what its files are: the same files have the same name."""
    digest = hashlib.sha256()
    for name, file in sorted(manifest.files.items()):
        digest.update(f"{name} {file.size_bytes} {file.sha256}\n".encode())
    commit = manifest.source.revision[:DIGITS]
    origin = commit if commit.isalnum() and commit.isascii() else manifest.source.kind
    return f"{origin}-{digest.hexdigest()[:DIGITS]}"


class ModelVersions:
    """Of the model in `folder`, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, version: str) -> Path:
        return self.folder / version

    def manifests(self) -> dict[str, Manifest]:
        """Of every version, even if files are missing; the oldest first."""
        found = {}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                with suppress(ModelFilesInvalid):
                    found[path.name] = read_manifest(path)
        return dict(sorted(found.items(), key=lambda item: (item[1].created_at, item[0])))

    def stored(self) -> dict[str, Manifest]:
        """Every version that can be used, because all files are there with their sizes; the oldest first."""
        return {
            version: manifest
            for version, manifest in self.manifests().items()
            if files_are_whole(self.path(version), manifest)
        }

    def leftovers(self) -> list[Path]:
        """All that is neither a usable version nor the pointer."""
        stored = self.stored()
        return [path for path in sorted(self.folder.iterdir()) if path.name not in stored and path.name != POINTER_NAME]

    def pointer(self) -> Pointer | None:
        """What is current; the newest version if nothing says so, None if there is no version."""
        try:
            return msgspec.json.decode((self.folder / POINTER_NAME).read_bytes(), type=Pointer)
        except (OSError, msgspec.DecodeError):
            stored = list(self.stored())
            return Pointer(stored[-1], stored[:-1]) if stored else None

    @property
    def current(self) -> str | None:
        pointer = self.pointer()
        return pointer.current if pointer else None

    def free_name(self, wanted: str) -> tuple[list[str], str]:
        """The stored versions of this name, whole or not, and a name that is free: `wanted`, or with a number."""
        names = (path.name for path in self.folder.glob(f"{wanted}*"))
        same = sorted(name for name in names if name == wanted or name.startswith(f"{wanted}-"))
        number = 2
        while f"{wanted}-{number}" in same:
            number += 1
        return same, f"{wanted}-{number}" if wanted in same else wanted

    def switch(self, version: str) -> None:
        """Make `version` current; what was current becomes what a rollback goes to."""
        pointer = self.pointer()
        earlier = [*pointer.earlier, pointer.current] if pointer else []
        latest_first = dict.fromkeys(name for name in reversed(earlier) if name != version)
        self._point(Pointer(version, list(reversed(latest_first))))

    def roll_back(self) -> str:
        """Make the latest earlier version current that is still whole; raises NotStored if there is none."""
        pointer, stored = self.pointer(), self.stored()
        earlier = [name for name in pointer.earlier if name in stored] if pointer else []
        if not earlier:
            raise NotStored(f"There is no earlier version to go back to. Stored are: {', '.join(stored) or 'none'}.")
        self._point(Pointer(earlier[-1], earlier[:-1]))
        return earlier[-1]

    def adopt_flat_layout(self) -> None:
        """Move a model of the time before versions, whose files lie in the folder itself, into one.

        The manifest moves last: a move that was interrupted goes on at the next call.
        """
        manifest_file = self.folder / MANIFEST_NAME
        if not manifest_file.is_file() or self.folder.is_symlink():
            return
        try:
            version = version_name(read_manifest(self.folder))
        except ModelFilesInvalid:
            manifest_file.unlink()  # no model, and never will be one
            return
        inside = self.path(version)
        inside.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if path not in (inside, manifest_file, self.folder / POINTER_NAME):
                path.rename(inside / path.name)
        self._point(Pointer(version))
        manifest_file.rename(inside / MANIFEST_NAME)

    def _point(self, pointer: Pointer) -> None:
        temporary = self.folder / f".{POINTER_NAME}.new"
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(pointer))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.folder / POINTER_NAME)
        flush_to_disk(self.folder)


def flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
