"""Which stored version a source means."""

from gateway.model_store.manifest import Source
from gateway.model_store.model_versions import ModelVersions
from gateway.model_store.sources import HubSource

SHORTEST_COMMIT = 7
"""A shorter revision is a branch or tag."""


def find_version(versions: ModelVersions, named: HubSource) -> str | None:
    """The stored version that a source means: of its commit, tag or branch as it was when it was downloaded; without
    one the current version. None if that is not stored, or not whole."""
    stored, current = versions.stored(), versions.current
    fitting = [
        version
        for version, manifest in stored.items()
        if manifest.source.location == named.repo_id and _is_asked_for(manifest.source, named.revision)
    ]
    if current in fitting or named.revision is None:
        return current if current in fitting else None
    return fitting[-1] if fitting else None


def _is_asked_for(source: Source, revision: str | None) -> bool:
    if revision is None or revision == source.asked:
        return True
    return len(revision) >= SHORTEST_COMMIT and source.revision.startswith(revision)
