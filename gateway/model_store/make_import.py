"""One import from beginning to end: converted and tried in child processes, then described. Does not import mlx."""

from pathlib import Path

import msgspec

from gateway.model_store.checksums import sha256_of_file
from gateway.model_store.import_process import import_in_child, try_in_child
from gateway.model_store.manifest import Manifest, Source, describe_folder
from gateway.model_store.sources import ImportSource
from gateway.model_store.store_folders import Report

CONVERTED, TRIED = 0.7, 0.95
"""How far an import is by then."""


def make_import(source: ImportSource, incoming: Path, lock_descriptor: int, report: Report) -> Manifest:
    """Make the model in the empty folder `incoming`; returns its manifest, which is not yet written.

    The caller holds the lock of `lock_descriptor`. Blocks; raises as `import_process.run_in_child` does.
    """
    path, before = source.path, source.path.stat()
    licence = import_in_child(path, incoming, lock_descriptor, lambda done, doing: report(CONVERTED * done, doing))
    checked = try_in_child(
        incoming, path, lock_descriptor, lambda done, doing: report(CONVERTED + (TRIED - CONVERTED) * done, doing)
    )
    report(TRIED, "computing the checksums")
    made_of = Source(
        kind="import",
        location=source.origin or str(path),
        size_bytes=before.st_size if path.is_file() else _taken_bytes(incoming),
        modified_ns=before.st_mtime_ns if path.is_file() else 0,
        sha256=sha256_of_file(path) if path.is_file() else "",
    )
    manifest = describe_folder(incoming, name=source.model_id, source=made_of, licence=licence, made_by="import")
    report(1.0, "imported")
    return msgspec.structs.replace(manifest, checked=checked)


def _taken_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
