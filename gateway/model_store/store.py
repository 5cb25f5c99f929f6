"""The models on disk: finds what a source names, and imports or downloads it first when that is needed.

Every function blocks, for minutes when it downloads: call from a worker thread. A store is safe to use
from several threads and processes at once; each model has a lock file.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.errors import ModelFilesInvalid
from gateway.model_store.checksums import sha256_of_file
from gateway.model_store.download import download_from_hub
from gateway.model_store.import_process import import_in_child
from gateway.model_store.manifest import (
    Manifest,
    Source,
    describe_folder,
    files_are_whole,
    read_manifest,
    write_manifest,
)
from gateway.model_store.sources import FolderSource, GgufSource, HubSource, read_source
from gateway.model_store.store_folders import Report, StoreFolders, disk_errors_explained, folder_name


@dataclass(frozen=True)
class StoredModel:
    """A model folder ready to load; `origin` tells a person where it came from."""

    model_id: str
    folder: Path
    origin: str
    manifest: Manifest | None
    """None for a folder used in place that the store did not make."""


class ModelStore:
    """The store under `root`, which is created with mode 0700 when absent."""

    def __init__(self, root: Path, hub_endpoint: str | None = None) -> None:
        self._hub_endpoint = hub_endpoint
        with disk_errors_explained(root):
            self._folders = StoreFolders(root)
            self._folders.remove_leftovers()

    def locate(self, source: str, report: Report) -> StoredModel:
        """The model that `source` names (see `sources.read_source`), made ready on disk.

        Raises ModelStoreError, ModelFilesInvalid among them, and what `report` raises.
        """
        named = read_source(source)
        with disk_errors_explained(self._folders.root):
            match named:
                case FolderSource(folder, model_id):
                    return _checked_folder(folder, model_id)
                case GgufSource():
                    return self._imported(named, report)
                case HubSource(repo_id):
                    folder = download_from_hub(repo_id, None, self._folders.root, report, endpoint=self._hub_endpoint)
                    manifest = read_manifest(folder)
                    origin = f"{repo_id} at {manifest.source.revision} from the Hugging Face hub"
                    return StoredModel(repo_id, folder, origin, manifest)

    def _imported(self, gguf: GgufSource, report: Report) -> StoredModel:
        name = folder_name(gguf.model_id)
        with self._folders.locked(name, report) as lock_descriptor:
            manifest = _reusable_manifest(self._folders.model(name), gguf.file)
            if manifest is None:
                manifest = self._import(gguf, name, lock_descriptor, report)
        origin = f"imported from {gguf.file}"
        return StoredModel(gguf.model_id, self._folders.model(name), origin, manifest)

    def _import(self, gguf: GgufSource, name: str, lock_descriptor: int, report: Report) -> Manifest:
        incoming = self._folders.incoming(name)
        shutil.rmtree(incoming, ignore_errors=True)  # of an import that was killed: the lock is ours
        incoming.mkdir()
        try:
            before = gguf.file.stat()
            licence = import_in_child(gguf.file, incoming, lock_descriptor, report)
            # size and time from before: if the file changed meanwhile, the next start imports it anew
            source = Source(
                kind="gguf",
                location=str(gguf.file),
                size_bytes=before.st_size,
                modified_ns=before.st_mtime_ns,
                sha256=sha256_of_file(gguf.file),
            )
            manifest = describe_folder(
                incoming, name=gguf.model_id, source=source, licence=licence, made_by="import_gguf"
            )
            write_manifest(incoming, manifest)
            self._folders.publish(name)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return manifest


def _reusable_manifest(folder: Path, gguf: Path) -> Manifest | None:
    """The manifest of an earlier import of this very file that is still whole, or None."""
    try:
        manifest = read_manifest(folder)
    except ModelFilesInvalid:
        return None
    if manifest.source.kind != "gguf" or not files_are_whole(folder, manifest):
        return None
    found = gguf.stat()
    seen = msgspec.structs.replace(
        manifest.source, location=str(gguf), size_bytes=found.st_size, modified_ns=found.st_mtime_ns
    )
    if seen == manifest.source:
        return manifest
    if sha256_of_file(gguf) != manifest.source.sha256:
        return None
    # the same bytes, moved or touched: remember how they look now, so that the next start need not read them
    manifest = msgspec.structs.replace(manifest, source=seen)
    write_manifest(folder, manifest)
    return manifest


def _checked_folder(folder: Path, model_id: str) -> StoredModel:
    """A folder used in place; raises ModelFilesInvalid unless it looks like a model mlx-lm can load."""
    if set("*?[") & set(str(folder)):
        raise ModelFilesInvalid(folder, "mlx-lm cannot read a folder with *, ? or [ in its path. Rename it.")
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except OSError as error:
        raise ModelFilesInvalid(folder, f"its config.json cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFilesInvalid(folder, f"its config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelFilesInvalid(folder, f"its config.json holds a {type(config).__name__}, not an object")
    if not any(folder.glob("model*.safetensors")):
        raise ModelFilesInvalid(
            folder, "it has no model*.safetensors. Weights of another kind must be converted first."
        )
    try:
        manifest = read_manifest(folder)
    except ModelFilesInvalid:
        manifest = None  # made by hand or by another program
    return StoredModel(model_id, folder, f"the folder {folder}", manifest)
