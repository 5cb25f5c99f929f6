"""How much memory the models of this process may take, and how much they take now.

Reads and limits mlx's allocator: call it on the MLX thread.
"""

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import mlx.core as mx
import psutil  # type: ignore[import-untyped]

GIB = 2**30

CACHE_SHARE = 10
"""Freed buffers that mlx keeps for reuse are memory of this process: at most one part in this many of the budget."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What the models may take together; `source` says for the log where the number comes from."""

    bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """mlx's own count. `peak` is since the last reading; neither it nor `active` counts the buffers kept for reuse."""

    active_bytes: int
    peak_bytes: int


def memory_budget(asked_bytes: int, fraction: float) -> MemoryBudget:
    """The budget of this machine; `asked_bytes` 0 means whatever suits it (see `budget_from`)."""
    info = mx.device_info()
    if mx.default_device().type == mx.DeviceType.cpu:
        return budget_from("CPU", info, psutil.virtual_memory().total, cgroup_limit(), asked_bytes, fraction)
    return budget_from("Metal" if mx.metal.is_available() else "CUDA", info, 0, None, asked_bytes, fraction)


def budget_from(
    device: Literal["CPU", "Metal", "CUDA"],
    info: Mapping[str, str | int],
    ram_bytes: int,
    cgroup_limit_bytes: int | None,
    asked_bytes: int,
    fraction: float,
) -> MemoryBudget:
    """On Metal what the system recommends, elsewhere `fraction` of the memory there is; `asked_bytes` overrides it.

    More than there is is cut down to that, with a word about it: a server with less than was asked for is of more
    use than none. `info` is `mx.device_info()`; `ram_bytes` and `cgroup_limit_bytes` count on the CPU only.
    """
    match device:
        case "Metal":
            exists, whole, fraction = (
                int(info["max_recommended_working_set_size"]),
                "Metal's recommended working set",
                1.0,
            )
        case "CUDA":
            exists, whole = int(info["total_memory"]), "the GPU's memory"
        case "CPU":
            exists, whole = ram_bytes, "this machine's memory"
            if cgroup_limit_bytes is not None and cgroup_limit_bytes < ram_bytes:
                exists, whole = cgroup_limit_bytes, "this cgroup's limit"
    suits = int(exists * fraction)
    if asked_bytes > exists:
        return MemoryBudget(exists, f"all of {whole}, less than the {_gib(asked_bytes)} that were asked for")
    if asked_bytes:
        return MemoryBudget(asked_bytes, f"as configured; else {_gib(suits)}, {fraction:.0%} of {whole}")
    return MemoryBudget(suits, f"{fraction:.0%} of {whole} ({_gib(exists)})")


def cgroup_limit(mounted_at: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """The smallest memory limit, in bytes, of the cgroups this process is in; None without one.

    Reads v2 (`memory.max`) and v1 (`memory.limit_in_bytes`) of the process's own group and of all above it: any of
    them may hold the limit, and a container may show its own group as the root. Source: cgroups(7), and the kernel's
    cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    limits = []
    for line in _read(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, own_group = rest.partition(":")
        if not controllers:
            files = _files_up(mounted_at, own_group, "memory.max")
        elif "memory" in controllers.split(","):
            files = _files_up(mounted_at / "memory", own_group, "memory.limit_in_bytes")
        else:
            continue
        limits += [int(text) for file in files if (text := _read(file).strip()).isdecimal()]  # v2 says "max" for none
    return min(limits, default=None)


def device_info() -> dict[str, str | int]:
    """What mlx says of the device: its name, and on Metal the working set it recommends."""
    return dict(mx.device_info())


def read_memory() -> MemoryReading:
    """What mlx holds now and held at most since the last call."""
    active = mx.get_active_memory()
    peak = max(active, mx.get_peak_memory())  # a reset peak is 0 until the next allocation
    mx.reset_peak_memory()
    return MemoryReading(active, peak)


def limit_allocator(budget_bytes: int) -> int:
    """Makes mlx keep few freed buffers, and returns how many bytes at most.

    Never raises a lower limit of mlx's own: on the CPU that is 32 MiB, on Metal and CUDA it is the memory limit. The
    memory limit is a hint everywhere: above it, mlx lets scheduled work finish before it schedules more and (on a
    GPU) drops freed buffers first, but it never refuses. Only admission keeps the process within the budget.
    """
    mx.set_memory_limit(budget_bytes)
    if mx.metal.is_available():
        # The system may not page out what fits here. More than it recommends would be an error.
        mx.set_wired_limit(min(budget_bytes, int(mx.device_info()["max_recommended_working_set_size"])))
    limit = budget_bytes // CACHE_SHARE
    before = mx.set_cache_limit(limit)
    if before < limit:
        mx.set_cache_limit(before)
    return min(before, limit)


def free_unused() -> None:
    """Gives freed memory back to the system: the buffers that mlx keeps for reuse, and what the C library keeps.

    glibc returns the free end of its heap only, and after a while allocates even large buffers there (mallopt(3),
    M_MMAP_THRESHOLD), so that one small block above them keeps them all. `malloc_trim` returns every free page.
    """
    mx.clear_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)


def _files_up(mounted_at: Path, own_group: str, name: str) -> Iterable[Path]:
    """`name` in the group's folder and in each above it; a group outside the namespace begins with `/..`."""
    parts = [part for part in PurePosixPath(own_group).parts if part not in ("/", "..")]
    return [mounted_at.joinpath(*parts[:depth], name) for depth in range(len(parts) + 1)]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:  # no such controller, or not for us to read: no limit we could know
        return ""


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
