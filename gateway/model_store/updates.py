"""Which stored models have newer versions. Asked for by a person only: each question tells the hub what is stored."""

from msgspec import Struct

from gateway.errors import ModelStoreError, NotStored
from gateway.model_store.hub import Hub
from gateway.model_store.store_folders import Report, StoreFolders


class Update(Struct, frozen=True):
    """`newest` is the commit of the branch that the model was downloaded from, or empty and `problem` says why."""

    model: str
    branch: str
    revision: str
    newest: str
    problem: str

    @property
    def is_newer(self) -> bool:
        return bool(self.newest) and self.newest != self.revision


def look_for_updates(folders: StoreFolders, hub: Hub, report: Report, model_id: str | None = None) -> list[Update]:
    """Of every model that was downloaded, or of one. Blocks. One that cannot be asked for does not stop the others."""
    current = []
    for name in folders.names():
        versions = folders.versions_now(name)
        manifest = versions.manifests().get(versions.current or "")
        if manifest and manifest.source.kind == "hub" and model_id in (None, manifest.name):
            current.append(manifest.source)
    if model_id is not None and not current:
        raise NotStored(f"The store has no model {model_id!r} that was downloaded.")
    updates = []
    for number, source in enumerate(current):
        report(number / len(current), f"asking the hub for {source.location}")
        newest = problem = ""
        try:
            newest = hub.describe(source.location, source.asked or None).commit
        except ModelStoreError as error:
            problem = str(error)
        updates.append(Update(source.location, source.asked or "default branch", source.revision, newest, problem))
    return updates
