"""Models of the store that are made from other models: made once, and never in place of another one."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store.fingerprint import fingerprint
from gateway.model_store.manifest import Manifest, Source, files_are_whole, read_manifest
from gateway.model_store.optimise_process import OptimiserTask, optimise_in_child
from gateway.model_store.pruning import Pruning
from gateway.model_store.quantization_recipe import Recipe
from gateway.model_store.store_folders import Report, StoreFolders, folder_name


@dataclass(frozen=True, slots=True)
class Original:
    """What a model is made from; `manifest` is None for a folder that the store did not make."""

    model_id: str
    folder: Path
    manifest: Manifest | None


def make_optimised(
    folders: StoreFolders, original: Original, recipe: Recipe | Pruning, model_id: str, report: Report
) -> None:
    """Have `original` quantised or pruned, as the current version of `model_id`, unless that is what is there.

    Raises `ModelFilesInvalid` for a model with which that cannot be done, `ModelStoreError` when the id belongs to
    another model or the disk is too small, and what `report` raises. Until the model is whole, nothing of it can be
    found. Blocks, for minutes; whoever calls holds no lock.
    """
    if model_id == original.model_id:
        raise ModelStoreError(f"The new model cannot be called {model_id!r}: the one it is made from is.")
    name = folder_name(model_id)
    origin = Source(
        kind="model",
        location=original.model_id,
        revision=original.manifest.source.revision if original.manifest else "",
        sha256=fingerprint(original.folder, original.manifest).hex(),
    )
    with folders.locked(name, report) as lock_descriptor:
        if _is_made(folders.model(name), origin, recipe):
            return
        _refuse_to_replace_another(folders.model(name), original.model_id, model_id)
        incoming = folders.incoming(name)
        shutil.rmtree(incoming, ignore_errors=True)  # of a process that was killed: the lock is ours
        incoming.mkdir()
        try:
            task = OptimiserTask(
                source=str(original.folder.absolute()),
                destination=str(incoming),
                recipe=str(recipe),
                name=model_id,
                licence=original.manifest.licence if original.manifest else "",
                origin=origin,
            )
            optimise_in_child(task, lock_descriptor, report)
            folders.publish(name)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)


def _is_made(folder: Path, origin: Source, recipe: Recipe | Pruning) -> bool:
    try:
        manifest = read_manifest(folder)
    except ModelFilesInvalid:
        return False
    done = manifest.optimisation
    same = manifest.source == origin and done is not None and done.recipe == str(recipe)
    return same and files_are_whole(folder, manifest)


def _refuse_to_replace_another(folder: Path, original_id: str, model_id: str) -> None:
    try:
        source = read_manifest(folder).source
    except ModelFilesInvalid:
        return  # nothing there that anybody could use
    if source.kind != "model" or source.location != original_id:
        raise ModelStoreError(
            f"There is another model called {model_id!r} in the store, made from {source.location}. "
            "Give the new one another id."
        )
