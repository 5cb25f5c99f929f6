"""A fast BLAS for mlx's CPU backend on Linux.

mlx's Linux wheel calls plain `cblas_sgemm` and brings the reference BLAS, about 25 times slower than OpenBLAS.
A library that was loaded into the process with global visibility before `mlx.core` wins the symbol look-up. No
mlx import here, for that reason.
"""

import ctypes
import ctypes.util
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from gateway.hardware.symbol_alias import alias_symbol

INSTALL_HINT = "install OpenBLAS for about 20 times the speed: pip install 'mlx-gateway[cpu-fast]'"


@dataclass(frozen=True, slots=True)
class Blas:
    """The library in use; `threads` is 0 where that is the library's own business."""

    name: str
    threads: int = 0

    def __str__(self) -> str:
        return f"{self.name}, {self.threads} threads" if self.threads else self.name


WHEEL_PREFIX = "scipy_"
"""Of every symbol in OpenBLAS's own wheel."""

REFERENCE = Blas(f"reference BLAS ({INSTALL_HINT})")
ACCELERATE = Blas("Accelerate")


class BlasUnavailable(Exception):
    """A library exists but cannot be loaded; the message says why."""


def load_blas(choice: str, threads: int) -> Blas:
    """Makes OpenBLAS the process's BLAS; call once, before the first import of mlx.

    `choice` is `auto`, `none` or a path to a library that exports `cblas_sgemm`. `threads` 0 means one per core
    this process may run on: with the gateway's own HTTP side and eight clients beside it on two cores, two
    threads gave 1.3 times the tokens of one (`python -m loadtests.compare --only gateway`). Raises
    `BlasUnavailable` only for a path that was asked for by name; `auto` falls back to what mlx brings.
    """
    if sys.platform != "linux":
        return ACCELERATE
    if choice == "none":
        return REFERENCE
    if choice != "auto":
        return _load(Path(choice), threads)
    failures = []
    for candidate in _candidates():
        try:
            return _load(candidate, threads)
        except BlasUnavailable as failure:
            failures.append(str(failure))
    return Blas(f"reference BLAS ({'; '.join(failures)})") if failures else REFERENCE


def _candidates() -> list[Path]:
    """The wheel of the `cpu-fast` extra first (newer kernels), then the system's library.

    Both choose their kernels by the processor they find. (A build for one processor, as some packages are, kills the
    process on another: `cmeel-openblas` 0.3.31 is AVX-512 only.)
    """
    system = ctypes.util.find_library("openblas")
    found = (_installed_file("scipy-openblas32", "scipy_openblas32/lib/libscipy_openblas.so"), system)
    return [Path(path) for path in found if path]


def _load(path: Path, threads: int) -> Blas:
    try:
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        prefix = WHEEL_PREFIX if hasattr(library, f"{WHEEL_PREFIX}cblas_sgemm") else ""
        if prefix:
            alias_symbol("cblas_sgemm", f"{prefix}cblas_sgemm")
        else:
            library.cblas_sgemm  # noqa: B018  (the attribute look-up is the check)
    except (OSError, AttributeError) as error:
        raise BlasUnavailable(f"{path.name} cannot be used: {error}") from error
    if not hasattr(library, f"{prefix}openblas_set_num_threads"):
        return Blas(path.name)
    get_config = getattr(library, f"{prefix}openblas_get_config")
    get_config.restype = ctypes.c_char_p
    getattr(library, f"{prefix}openblas_set_num_threads")(threads or len(os.sched_getaffinity(0)))
    version = " ".join(get_config().decode().split()[:2])
    return Blas(version, getattr(library, f"{prefix}openblas_get_num_threads")())


def _installed_file(distribution: str, path: str) -> Path | None:
    """A file or folder of an installed distribution, found without importing anything of it."""
    try:
        file = Path(str(metadata.distribution(distribution).locate_file(path)))
    except metadata.PackageNotFoundError:
        return None
    return file if file.exists() else None
