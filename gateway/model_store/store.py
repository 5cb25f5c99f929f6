"""The models on disk: finds what a source names, and imports or downloads it first when that is needed.

Every function blocks, for minutes when it downloads: call from a worker thread. A store is safe to use
from several threads and processes at once; each model has a lock file.
"""

import dataclasses
import json
import os
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.config import DownloadsConfig
from gateway.errors import ModelFilesInvalid
from gateway.generation.adapter import Adapter
from gateway.model_store.adapters import AdapterStore
from gateway.model_store.checksums import sha256_of_file
from gateway.model_store.download import Download
from gateway.model_store.hub import Hub
from gateway.model_store.import_process import import_in_child
from gateway.model_store.make_import import make_import
from gateway.model_store.manifest import (
    Manifest,
    Source,
    describe_folder,
    files_are_whole,
    read_manifest,
    write_manifest,
)
from gateway.model_store.optimised import Original, make_optimised
from gateway.model_store.pruning import Pruning
from gateway.model_store.quantization_plan import WeightRoom, best_fitting
from gateway.model_store.quantization_recipe import Recipe, read_recipe
from gateway.model_store.sources import (
    LONGEST_ID,
    FolderSource,
    GgufSource,
    HubSource,
    ImportSource,
    StoredSource,
    read_hub_id,
    read_source,
)
from gateway.model_store.store_folders import Report, StoreFolders, disk_errors_explained, folder_name
from gateway.model_store.version_search import find_version
from gateway.model_store.weight_shapes import read_weights


@dataclass(frozen=True)
class StoredModel:
    """A model folder ready to load; `origin` tells a person where it came from."""

    model_id: str
    folder: Path
    origin: str
    manifest: Manifest | None
    """None for a folder used in place that the store did not make."""


class ModelStore:
    """The store under `root`, which is created with mode 0700 when absent; `downloads` says what may be fetched how.

    What was located stays on disk, whatever other processes clean up, until `close` or the end of the process.
    """

    def __init__(self, root: Path, downloads: DownloadsConfig | None = None) -> None:
        self._hub = Hub(downloads or DownloadsConfig())
        self._in_use: dict[tuple[str, str], int] = {}
        self._in_use_lock = threading.Lock()
        with disk_errors_explained(root):
            self._folders = StoreFolders(root)
            self._folders.remove_leftovers()
            self._adapters = AdapterStore(self._folders, self._use)

    def locate(self, source: str, report: Report, *, trusted: bool = False) -> StoredModel:
        """The model that `source` names (see `sources.read_source`), made ready on disk.

        Only what is not stored is downloaded; with `trusted` that includes code. Raises ModelStoreError,
        ModelFilesInvalid among them, and what `report` raises.
        """
        named = self.named(source)
        with disk_errors_explained(self._folders.root):
            match named:
                case StoredSource(model_id):
                    return self._by_id(model_id, report)
                case FolderSource(folder, model_id):
                    if self._folders.holds(folder):
                        with self._folders.locked(folder.parent.name, report):
                            self._use(folder.parent.name, folder.name)
                    return _checked_folder(folder, model_id)
                case GgufSource():
                    return self._imported(named, report)
                case HubSource():
                    return self._stored(named, report, trusted) or self._downloaded(named, report, trusted)

    def require_allowed(self, named: HubSource) -> None:
        """Raises `DownloadRefused` if the configuration forbids to download it."""
        self._hub.require_allowed(named.repo_id)

    def pull(self, named: HubSource, report: Report, *, trusted: bool = False) -> Path:
        """Have the newest version of the repository, or of its revision, and make it the current one; asks the hub.

        Returns the version's folder, which is not in use by that. Raises as `locate` does.
        """
        with disk_errors_explained(self._folders.root):
            return self._download(named, trusted).run(report)

    def close(self) -> None:
        """What was located may be removed from now on."""
        with self._in_use_lock:
            while self._in_use:
                os.close(self._in_use.popitem()[1])

    def _stored(self, named: HubSource, report: Report, trusted: bool) -> StoredModel | None:
        name = folder_name(named.repo_id)
        with self._folders.locked(name, report):
            versions = self._folders.versions(name)
            version = find_version(versions, named)
            if version is None or (trusted and _lacks_code(versions.path(version))):
                return None
            return self._used(named, name, versions.path(version))

    def _downloaded(self, named: HubSource, report: Report, trusted: bool) -> StoredModel:
        """A version that a source pins does not become what the mere id means."""
        folder = self._download(named, trusted).run(report, make_current=named.revision is None)
        name = folder_name(named.repo_id)
        with self._folders.locked(name, report):
            return self._used(named, name, folder)

    def _download(self, named: HubSource, trusted: bool) -> Download:
        return Download(self._folders, self._hub, named.repo_id, named.revision, trusted=trusted)

    def _used(self, named: HubSource, name: str, folder: Path) -> StoredModel:
        """The caller holds the model's lock."""
        self._use(name, folder.name)
        manifest = read_manifest(folder)
        where = manifest.source.endpoint or "the Hugging Face hub"
        return StoredModel(
            named.model_id, folder, f"{named.repo_id} at {manifest.source.revision} from {where}", manifest
        )

    def _use(self, name: str, version: str) -> None:
        with self._in_use_lock:
            if (name, version) not in self._in_use:
                self._in_use[name, version] = self._folders.use(name, version)

    def named(self, source: str) -> FolderSource | GgufSource | HubSource | StoredSource:
        """What `source` means: a path, the id of a model made here, or else what `sources.read_source` says of it."""
        is_id = (
            0 < len(source) <= LONGEST_ID and source.isprintable() and not os.path.exists(os.path.expanduser(source))
        )
        if is_id and self._was_made_here(source):
            return StoredSource(source)
        return read_source(source)

    def import_model(self, source: ImportSource, report: Report) -> StoredModel:
        """Make a model of the store of `source`, in place of an earlier one with its id, and try it first.

        Raises ModelStoreError, ModelFilesInvalid among them, and what `report` raises; the store is then as it was.
        """
        name = folder_name(source.model_id)
        with disk_errors_explained(self._folders.root), self._folders.locked(name, report) as lock_descriptor:
            incoming = self._folders.incoming(name)
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir()
            try:
                manifest = make_import(source, incoming, lock_descriptor, report)
                write_manifest(incoming, manifest)
                self._folders.publish(name)
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
        return self._by_id(source.model_id, report)

    def list_models(self) -> list[StoredModel]:
        """Every whole model that the store holds, by id. Reads manifests only."""
        with disk_errors_explained(self._folders.root):
            folders = [self._folders.model(name) for name in self._folders.names()]
        models = []
        for folder in folders:
            with suppress(ModelFilesInvalid):
                manifest = read_manifest(folder)
                if "config.json" not in manifest.files:
                    continue  # an adapter
                origin = f"{manifest.source.kind} {manifest.source.location}"
                models.append(StoredModel(manifest.name, folder, origin, manifest))
        return sorted(models, key=lambda model: model.model_id)

    def _was_made_here(self, model_id: str) -> bool:
        try:
            return read_manifest(self._folders.model(folder_name(model_id))).source.kind in ("import", "gguf", "model")
        except ModelFilesInvalid:
            return False

    def _by_id(self, model_id: str, report: Report) -> StoredModel:
        name = folder_name(model_id)
        with self._folders.locked(name, report):
            folder = self._folders.model(name)
            manifest = read_manifest(folder)
            if not files_are_whole(folder, manifest):
                raise ModelFilesInvalid(folder, "files of this model are missing or cut short. Make it again.")
            self._use(name, folder.name)
        return StoredModel(model_id, folder, _origin(manifest), manifest)

    def model_id_of(self, source: str) -> str:
        """The id that a model of this source has unless it is given another. Raises ModelStoreError."""
        return self.named(source).model_id

    def optimised(
        self, original: StoredModel, recipe: Recipe | Pruning, report: Report, model_id: str = ""
    ) -> StoredModel:
        """`original` quantised or pruned, which may have been done before; see `optimised.make_optimised`.

        Without a `model_id` it is called after the original.
        """
        model_id = model_id or f"{original.model_id}-{recipe.suffix}"
        source = Original(original.model_id, original.folder, original.manifest)
        with disk_errors_explained(self._folders.root):
            make_optimised(self._folders, source, recipe, model_id, report)
            return self._by_id(model_id, report)

    def quantized_as_configured(
        self, original: StoredModel, wanted: str, room: WeightRoom | None, report: Report
    ) -> StoredModel:
        """What `quantize` of a model's configuration asks for: a recipe, or "auto", for which `room` is needed."""
        if wanted != "auto":
            return self.optimised(original, read_recipe(wanted), report)
        assert room
        choice = best_fitting(read_weights(original.folder), room)
        model = self.optimised(original, choice.recipe, report) if choice.recipe else original
        return dataclasses.replace(model, origin=f"{model.origin}; {choice.reason}")

    def locate_adapter(self, base_id: str, name: str, source: str, report: Report) -> Adapter:
        """The adapter in the folder or hub repository `source`, of the model `base_id`; downloaded and imported first
        if that is needed.

        Raises ModelStoreError, ModelFilesInvalid among them, and what `report` raises.
        """
        named = None if os.path.isdir(os.path.expanduser(source)) else read_hub_id(source)
        with disk_errors_explained(self._folders.root):
            if named:
                located = self._stored(named, report, trusted=False) or self._downloaded(named, report, trusted=False)
                source = str(located.folder)
            return self._adapters.locate(base_id, name, source, report)

    def _imported(self, gguf: GgufSource, report: Report) -> StoredModel:
        name = folder_name(gguf.model_id)
        with self._folders.locked(name, report) as lock_descriptor:
            folder = self._folders.model(name)
            manifest = _reusable_manifest(folder, gguf.file)
            if manifest is None:
                manifest, folder = self._import(gguf, name, lock_descriptor, report)
            self._use(name, folder.name)
        return StoredModel(gguf.model_id, folder, f"imported from {gguf.file}", manifest)

    def _import(self, gguf: GgufSource, name: str, lock_descriptor: int, report: Report) -> tuple[Manifest, Path]:
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
            return manifest, self._folders.publish(name)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)


def _lacks_code(folder: Path) -> bool:
    """It was downloaded before it was trusted."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    file = config.get("model_file") if isinstance(config, dict) else None
    return isinstance(file, str) and not (folder / file).exists()


def _origin(manifest: Manifest) -> str:
    if manifest.optimisation:
        return f"made from {manifest.source.location}: {manifest.optimisation.recipe}"
    return f"imported from {manifest.source.location}"


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
