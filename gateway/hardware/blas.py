"""A fast BLAS for mlx's CPU backend on Linux.

mlx's Linux wheel calls plain `cblas_sgemm` and brings the reference BLAS, about 25 times slower than OpenBLAS.
A library that was loaded into the process with global visibility before `mlx.core` wins the symbol look-up. No
mlx import here, for that reason.
"""

import ctypes
import ctypes.util
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

INSTALL_HINT = "install OpenBLAS for about 20 times the speed: pip install 'mlx-gateway[cpu-fast]'"


@dataclass(frozen=True, slots=True)
class Blas:
    """The library in use; `threads` is 0 where that is the library's own business."""

    name: str
    threads: int = 0

    def __str__(self) -> str:
        return f"{self.name}, {self.threads} threads" if self.threads else self.name


REFERENCE = Blas(f"reference BLAS ({INSTALL_HINT})")
ACCELERATE = Blas("Accelerate")


class BlasUnavailable(Exception):
    """A library exists but cannot be loaded; the message says why."""


def load_blas(choice: str, threads: int, runtime_directory: Path) -> Blas:
    """Makes OpenBLAS the process's BLAS; call once, before the first import of mlx.

    `choice` is `auto`, `none` or a path to a library that exports `cblas_sgemm`. `threads` 0 means one per core
    this process may run on: with the gateway's own HTTP side and eight clients beside it on two cores, two
    threads gave 1.3 times the tokens of one (`python -m loadtests.compare --only gateway`). `runtime_directory`
    is where a Fortran runtime may be put (see `_provide_fortran_runtime`). Raises `BlasUnavailable` only for a
    path that was asked for by name; `auto` falls back to what mlx brings.
    """
    if sys.platform != "linux":
        return ACCELERATE
    if choice == "none":
        return REFERENCE
    if choice != "auto":
        return _load(Path(choice), threads)
    failures = []
    for candidate in _candidates(runtime_directory):
        try:
            return _load(candidate, threads)
        except BlasUnavailable as failure:
            failures.append(str(failure))
    return Blas(f"reference BLAS ({'; '.join(failures)})") if failures else REFERENCE


def _candidates(runtime_directory: Path) -> list[Path]:
    """The wheel of the `cpu-fast` extra first (newer kernels), then the system's library."""
    candidates = []
    wheel = _installed_file("cmeel-openblas", "cmeel.prefix/lib/libopenblas.so")
    if wheel:
        with suppress(OSError):  # then loading the wheel's library fails, and says why
            _provide_fortran_runtime(runtime_directory)
        candidates.append(wheel)
    system = ctypes.util.find_library("openblas")
    if system:
        candidates.append(Path(system))
    return candidates


def _load(path: Path, threads: int) -> Blas:
    try:
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        library.cblas_sgemm  # noqa: B018  (the attribute look-up is the check)
    except (OSError, AttributeError) as error:
        raise BlasUnavailable(f"{path.name} cannot be used: {error}") from error
    if not hasattr(library, "openblas_set_num_threads"):
        return Blas(path.name)
    library.openblas_get_config.restype = ctypes.c_char_p
    library.openblas_set_num_threads(threads or len(os.sched_getaffinity(0)))
    version = " ".join(library.openblas_get_config().decode().split()[:2])
    return Blas(version, library.openblas_get_num_threads())


def _provide_fortran_runtime(directory: Path) -> None:
    """Loads a `libgfortran.so.5` for the OpenBLAS wheel, which needs one and does not bring it.

    mlx's own wheel carries that runtime under a mangled name. The loader matches libraries by the name in their SONAME
    entry, so a copy with the plain SONAME is kept in `directory` and loaded. Does nothing where the system has one.
    """
    try:
        ctypes.CDLL("libgfortran.so.5", mode=ctypes.RTLD_GLOBAL)
        return
    except OSError:
        bundled = _installed_file("mlx-cpu", "mlx_cpu.libs")
    if bundled is None:
        return
    for quadmath in bundled.glob("libquadmath-*.so*"):
        ctypes.CDLL(str(quadmath), mode=ctypes.RTLD_GLOBAL)
    for mangled in bundled.glob("libgfortran-*.so.5*"):
        copy = directory / mangled.name / "libgfortran.so.5"
        if not copy.exists():
            _copy_with_plain_soname(mangled, copy)
        ctypes.CDLL(str(copy), mode=ctypes.RTLD_GLOBAL)


def _copy_with_plain_soname(mangled: Path, copy: Path) -> None:
    soname = mangled.name.encode() + b"\0"
    content = mangled.read_bytes().replace(soname, b"libgfortran.so.5".ljust(len(soname), b"\0"))
    copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = copy.with_suffix(f".{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(copy)


def _installed_file(distribution: str, path: str) -> Path | None:
    """A file or folder of an installed distribution, found without importing anything of it."""
    try:
        file = Path(str(metadata.distribution(distribution).locate_file(path)))
    except metadata.PackageNotFoundError:
        return None
    return file if file.exists() else None
