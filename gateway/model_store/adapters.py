"""LoRA adapters as objects of the store: copied from a folder, described by a manifest, checked before they are used.

They lie among the models as versions of `base:name`, and outlive the folder that they came from.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from gateway.errors import ConfigError, ModelFilesInvalid
from gateway.generation.adapter import Adapter, adapter_id
from gateway.model_store.adapter_format import CONFIG_NAME, read_updates, weights_file
from gateway.model_store.fingerprint import fingerprint
from gateway.model_store.manifest import (
    Manifest,
    Source,
    describe_folder,
    files_are_whole,
    read_manifest,
    write_manifest,
)
from gateway.model_store.store_folders import Report, StoreFolders, folder_name, require_space

log = logging.getLogger(__name__)

NO_NAME = "latest"
"""What Ollama's clients append to every model's id."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def read_adapter_entry(entry: str) -> tuple[str, str]:
    """The name and the source of an adapter as a configuration gives them, `name=source` or `source` alone.

    Raises `ConfigError`.
    """
    before, equals, after = entry.partition("=")
    name, source = (before, after) if equals else (Path(entry).name, entry)
    if not NAME.fullmatch(name) or name == NO_NAME or not source:
        raise ConfigError(
            f"{entry!r} names no adapter. Write name=source, with a name of letters, digits, dots, dashes and "
            "underscores that is not 'latest'; clients then ask for the model's id, a colon and that name."
        )
    return name, source


class AdapterStore:
    """Every function blocks. Safe to use from several threads and processes at once."""

    def __init__(self, folders: StoreFolders, use: Callable[[str, str], None]) -> None:
        """`use` is told the folder's and version's names of what is served, so that nobody removes it."""
        self._folders = folders
        self._use = use

    def locate(self, base_id: str, name: str, source: str, report: Report) -> Adapter:
        """An adapter of a base model, copied into the store first if its folder is new or has changed.

        Raises ModelFilesInvalid for what is no adapter that can be served, OSError, and what `report` raises.
        """
        own_id = adapter_id(base_id, name)
        own_name, folder = folder_name(own_id), Path(os.path.abspath(os.path.expanduser(source)))
        with self._folders.locked(own_name, report):
            stored = self._folders.model(own_name)
            manifest = _stored_manifest(stored, folder)
            if manifest is None or (folder.is_dir() and _described(folder) != manifest.source):
                report(0.0, f"importing the adapter {own_id}")
                stored, manifest = self._import(own_id, folder)
            self._use(own_name, stored.name)
        return Adapter(name, weights_file(stored), read_updates(stored), fingerprint(stored, manifest))

    def _import(self, own_id: str, folder: Path) -> tuple[Path, Manifest]:
        if not folder.is_dir():
            raise ModelFilesInvalid(folder, "there is no such folder with an adapter")
        read_updates(folder)  # what cannot be served is not copied
        name = folder_name(own_id)
        incoming = self._folders.incoming(name)
        shutil.rmtree(incoming, ignore_errors=True)  # of an import that was killed: the lock is ours
        incoming.mkdir()
        try:
            # size and time from before: if the files change meanwhile, the next start imports them anew
            source = _described(folder)
            require_space(incoming, source.size_bytes)
            for path in _files(folder):
                shutil.copyfile(path, incoming / path.name)
            read_updates(incoming)
            manifest = describe_folder(incoming, name=own_id, source=source, licence="", made_by="import_adapter")
            write_manifest(incoming, manifest)
            stored = self._folders.publish(name)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        log.info("the adapter %s was imported from %s", own_id, folder)
        return stored, manifest


def _stored_manifest(stored: Path, folder: Path) -> Manifest | None:
    """Of an earlier import from this folder that is still whole."""
    try:
        manifest = read_manifest(stored)
    except ModelFilesInvalid:
        return None
    same = manifest.source.kind == "adapter" and manifest.source.location == str(folder)
    return manifest if same and files_are_whole(stored, manifest) else None


def _described(folder: Path) -> Source:
    states = [path.stat() for path in _files(folder)]
    return Source(
        kind="adapter",
        location=str(folder),
        size_bytes=sum(state.st_size for state in states),
        modified_ns=max(state.st_mtime_ns for state in states),
    )


def _files(folder: Path) -> list[Path]:
    return [folder / CONFIG_NAME, weights_file(folder)]
