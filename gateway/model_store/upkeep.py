"""What an operator asks of the versions in the store: which there are, back to the one before, away with the old.

Every function blocks. Other processes may use the store meanwhile: what they use is never removed.
"""

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from msgspec import Struct

from gateway.errors import ModelStoreError, NotStored
from gateway.model_store.manifest import Manifest
from gateway.model_store.model_versions import ModelVersions
from gateway.model_store.sources import HubSource
from gateway.model_store.store_folders import DOWNLOAD, SUFFIX, StoreFolders, folder_name
from gateway.model_store.version_search import find_version


class Version(Struct, frozen=True):
    """`name` is its folder's; `revision` the commit it came from, or empty. `in_use`: a process serves it."""

    model: str
    name: str
    revision: str
    created_at: str
    size_bytes: int
    licence: str
    signed_by: str
    current: bool
    in_use: bool


class Removed(Struct, frozen=True):
    """What was or would be removed, and how many bytes that frees: files that another version shares do not count."""

    model: str
    what: str
    size_bytes: int


class Upkeep:
    def __init__(self, folders: StoreFolders, tell: Callable[[str], None] = lambda _doing: None) -> None:
        """`tell` hears what is waited for."""
        self._folders = folders
        self._report: Callable[[float, str], None] = lambda _fraction, doing: tell(doing)

    def models(self) -> list[str]:
        """The ids of all stored models."""
        ids = []
        for name in self._folders.names():
            stored = list(self._folders.versions_now(name).stored().values())
            ids += [stored[-1].name] if stored else []
        return sorted(ids)

    def versions(self, model_id: str) -> list[Version]:
        """The oldest first. Raises NotStored if the store has no such model."""
        name = folder_name(model_id)
        self._folders.versions_now(name)
        return self._describe(name, self._known(model_id))

    def roll_back(self, model_id: str, to: str | None = None) -> Version:
        """Make the version that was current before, or the one that `to` names, the current one.

        `to` is the beginning of a version's name or of its commit. Who serves the model goes on with what it has.
        Raises NotStored if there is none.
        """
        name = folder_name(model_id)
        with self._folders.locked(name, self._report):
            versions = self._known(model_id)
            if to is None:
                versions.roll_back()
            else:
                versions.switch(_named(to, versions.stored()))
            return next(version for version in self._describe(name, versions) if version.current)

    def remove(self, model_id: str, version: str | None = None) -> list[Removed]:
        """Remove one version that is not current, or the whole model. Raises ModelStoreError if it is in use."""
        name = folder_name(model_id)
        with self._folders.locked(name, self._report):
            versions = self._known(model_id)
            described = self._describe(name, versions)
            if version is not None:
                chosen = _named(version, versions.stored())
                described = [one for one in described if one.name == chosen]
                if described[0].current:
                    raise ModelStoreError(
                        f"{chosen} is the current version of {model_id}. Make another one current first "
                        f"(`mlx-gateway rollback`), or remove the whole model."
                    )
            if used := [one.name for one in described if one.in_use]:
                raise ModelStoreError(f"{model_id}: {', '.join(used)} is in use. Stop the server that serves it first.")
            removed = [Removed(model_id, one.name, _bytes_in(versions.path(one.name))) for one in described]
            if version is None:
                self._folders.remove_model(name)
            else:
                self._folders.remove_version(name, described[0].name)
            return removed

    def collect_garbage(
        self, *, keep: int = 1, pinned: Collection[HubSource] = (), downloads: bool = False, dry_run: bool = False
    ) -> list[Removed]:
        """Remove what nobody needs any more; returns what that was.

        Of each model stay the current version, the `keep` latest that were current before it, what a process uses, and
        what one of the `pinned` sources names (`ID@REVISION`). A model that somebody works on is passed over. With
        `downloads` also unfinished ones are removed, but those going on. `dry_run` removes nothing.
        """
        self._folders.remove_leftovers()
        removed: list[Removed] = []
        for name in self._folders.names():
            with self._folders.locked_if_free(name) as free:
                removed += self._old_versions(name, keep, pinned, dry_run) if free else []
        if downloads:
            removed += self._unfinished_downloads(dry_run)
        return removed

    def _old_versions(self, name: str, keep: int, pinned: Collection[HubSource], dry_run: bool) -> list[Removed]:
        versions = self._folders.versions(name)
        versions.adopt_flat_layout()
        stored, pointer = versions.stored(), versions.pointer()
        earlier = [version for version in pointer.earlier if version in stored] if pointer else []
        kept = {pointer.current, *earlier[max(0, len(earlier) - keep) :]} if pointer else set()
        kept |= {version for source in pinned if (version := find_version(versions, source))}
        removed = []
        for path in versions.leftovers() + [versions.path(version) for version in stored]:
            if path.name in kept or (path.is_dir() and self._folders.in_use(name, path.name)):
                continue
            model_id = stored[path.name].name if path.name in stored else name
            removed.append(Removed(model_id, path.name, _bytes_in(path)))
            if not dry_run:
                self._folders.remove_version(name, path.name)
        return removed

    def _unfinished_downloads(self, dry_run: bool) -> list[Removed]:
        removed = []
        for folder in self._folders.unfinished_downloads():
            name = folder.name.partition(SUFFIX)[0]
            with self._folders.locked_if_free(f"{name}{DOWNLOAD}") as free:
                if free:
                    removed.append(Removed(name, f"unfinished download{folder.name[-13:]}", _bytes_in(folder)))
                    if not dry_run:
                        shutil.rmtree(folder, ignore_errors=True)
        return removed

    def _known(self, model_id: str) -> ModelVersions:
        versions = self._folders.versions(folder_name(model_id))
        if not versions.stored():
            raise NotStored(f"The store has no model {model_id!r}. `mlx-gateway versions` lists what it has.")
        return versions

    def _describe(self, name: str, versions: ModelVersions) -> list[Version]:
        current = versions.current
        return [
            Version(
                manifest.name,
                version,
                manifest.source.revision,
                manifest.created_at,
                sum(file.size_bytes for file in manifest.files.values()),
                manifest.licence,
                manifest.source.signed_by,
                version == current,
                self._folders.in_use(name, version),
            )
            for version, manifest in versions.stored().items()
        ]


def _named(asked: str, stored: dict[str, Manifest]) -> str:
    """Raises NotStored unless it is the beginning of exactly one."""
    fitting = [
        version
        for version, manifest in stored.items()
        if asked == version or version.startswith(asked) or (asked and manifest.source.revision.startswith(asked))
    ]
    if asked in fitting:
        return asked
    if len(fitting) != 1:
        raise NotStored(
            f"{asked!r} is {'no' if not fitting else 'more than one'} version. Stored are: {', '.join(stored)}."
        )
    return fitting[0]


def _bytes_in(path: Path) -> int:
    """Of a file, or of all files in a folder, that are nowhere else."""
    found = [file.stat() for file in (path, *path.rglob("*")) if file.is_file()]
    return sum(status.st_size for status in found if status.st_nlink == 1)
