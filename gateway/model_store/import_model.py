"""Makes a model folder of whatever can be imported.

Run it as `python -m gateway.model_store.import_model SOURCE DESTINATION`, in a process of its own: a file that changes
while it is read, or one that asks for too much memory, must be able to take down no more than that. Each line on
stdout is one `import_process.ImporterLine`; exit code 1 means refused.
"""

import shutil
import sys
from pathlib import Path

from gateway.errors import ModelFilesInvalid
from gateway.model_store.archive import unpack
from gateway.model_store.import_gguf import import_gguf
from gateway.model_store.import_process import ImporterLine, answer_parent
from gateway.model_store.import_weights import import_safetensors, import_torch
from gateway.model_store.store_folders import Report, disk_errors_explained
from gateway.model_store.weights_found import (
    ArchiveFound,
    GgufFound,
    SafetensorsFound,
    TorchFound,
    find_weights,
)

UNPACKED = ".unpacked"
"""Where an archive's files lie inside the destination meanwhile, on the same disk, so that they can be linked."""


def import_model(source: Path, destination: Path, report: Report) -> str:
    """Write the model of `source` into the folder `destination`; returns the licence that it names, or "".

    Raises ModelFilesInvalid for a file that is broken or of a kind not understood, ModelStoreError when the
    disk is too small. What was written by then stays for the caller to remove.
    """
    match find_weights(source):
        case GgufFound(file):
            return import_gguf(file, destination, report)
        case SafetensorsFound() as safetensors:
            return import_safetensors(safetensors, destination, report)
        case TorchFound() as torch:
            return import_torch(torch, destination, report)
        case ArchiveFound(file):
            return _import_archive(file, destination, report)


def _import_archive(archive: Path, destination: Path, report: Report) -> str:
    unpacked = destination / UNPACKED
    unpacked.mkdir()
    try:
        content = unpack(archive, unpacked, lambda fraction, doing: report(fraction / 2, doing))
        return import_model(content, destination, lambda fraction, doing: report(0.5 + fraction / 2, doing))
    except ModelFilesInvalid as error:
        if not error.path.is_relative_to(unpacked):
            raise
        # a place that nobody knows: name the archive instead
        within = error.path.relative_to(unpacked)
        reason = str(error).removeprefix(f"{error.path}: ")
        raise ModelFilesInvalid(archive, f"{within}: {reason}" if within.parts else reason) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """The child process: returns its exit code."""
    source, destination = (Path(argument) for argument in arguments)

    def work(report: Report) -> ImporterLine:
        with disk_errors_explained(destination):
            return ImporterLine(fraction=1.0, doing="written", licence=import_model(source, destination, report))

    return answer_parent(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
