"""The process that quantises or prunes a model: `python -m gateway.model_store.optimise_main TASK`.

It computes for minutes, and has the lowest priority so that it slows no server down. TASK is an
`optimise_process.OptimiserTask` in JSON; each line on stdout that is JSON is one `optimise_process.OptimiserLine`; exit
code 1 means refused.
"""

import os
import sys
from pathlib import Path

import msgspec

from gateway.config import HardwareConfig
from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.hardware.blas import load_blas
from gateway.model_store.manifest import describe_folder, write_manifest
from gateway.model_store.optimise_process import OptimiserLine, OptimiserTask
from gateway.model_store.pruning import read_pruning
from gateway.model_store.quantization_recipe import read_recipe
from gateway.model_store.store_folders import disk_errors_explained

LOWEST_PRIORITY = 19


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    os.nice(LOWEST_PRIORITY)
    task = msgspec.json.decode(arguments[0], type=OptimiserTask)
    try:
        with disk_errors_explained(Path(task.destination)):
            _optimise(task)
    except ModelFilesInvalid as error:
        _say(OptimiserLine(error=str(error).removeprefix(f"{error.path}: "), files_are_invalid=True))
        return 1
    except ModelStoreError as error:
        _say(OptimiserLine(error=str(error)))
        return 1
    _say(OptimiserLine(1.0, "written"))
    return 0


def _optimise(task: OptimiserTask) -> None:
    """One core for the BLAS, which must be there before mlx is imported: mlx takes the one it finds."""
    blas = load_blas("auto", 1)
    import mlx.core as mx

    from gateway.hardware.backend import detect_backend
    from gateway.model_store.optimise_model import quantize_folder
    from gateway.model_store.prune_model import prune_folder

    source, destination = Path(task.source), Path(task.destination)
    dtype = detect_backend(HardwareConfig(), blas).dtype
    try:
        if pruning := read_pruning(task.recipe):
            made = prune_folder(source, destination, pruning, dtype, _say_progress)
        else:
            made = quantize_folder(source, destination, read_recipe(task.recipe), dtype, _say_progress)
    finally:
        mx.clear_streams()  # or the process may crash on its way out
    manifest = describe_folder(
        destination, name=task.name, source=task.origin, licence=task.licence, made_by="optimise_model"
    )
    write_manifest(destination, msgspec.structs.replace(manifest, optimisation=made))


def _say_progress(fraction: float, doing: str) -> None:
    _say(OptimiserLine(fraction, doing))


def _say(line: OptimiserLine) -> None:
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
