"""Metal and CUDA speak through recorded `mx.device_info()`."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from gateway.hardware.memory import budget_from, cgroup_limit, limit_allocator, memory_budget, read_memory

GIB = 2**30
MIB = 2**20

M2_MAX: dict[str, str | int] = {
    "architecture": "applegpu_g14s",
    "device_name": "Apple M2 Max",
    "max_buffer_length": 55662780416,
    "max_recommended_working_set_size": 77309411328,
    "memory_size": 103079215104,
    "resource_limit": 499000,
}
H100: dict[str, str | int] = {
    "architecture": "sm_90",
    "compute_capability_major": 9,
    "compute_capability_minor": 0,
    "device_name": "NVIDIA H100 80GB HBM3",
    "free_memory": 84_000_000_000,
    "total_memory": 85_520_809_984,
}
CPU: dict[str, str | int] = {"architecture": "x86_64", "device_name": "AMD EPYC"}


def test_metal_gives_what_the_system_recommends() -> None:
    budget = budget_from("Metal", M2_MAX, 0, None, asked_bytes=0, fraction=0.7)
    assert budget.bytes == 77309411328
    assert budget.source == "100% of Metal's recommended working set (72.0 GiB)"


def test_a_gpu_gives_a_fraction_of_its_memory() -> None:
    budget = budget_from("CUDA", H100, 0, None, asked_bytes=0, fraction=0.5)
    assert budget.bytes == 42_760_404_992
    assert budget.source == "50% of the GPU's memory (79.6 GiB)"


@pytest.mark.parametrize(
    ("limit", "bytes_", "source"),
    [
        (None, 12 * GIB, "75% of this machine's memory (16.0 GiB)"),
        (2**63 - 4096, 12 * GIB, "75% of this machine's memory (16.0 GiB)"),
        (4 * GIB, 3 * GIB, "75% of this cgroup's limit (4.0 GiB)"),
    ],
)
def test_a_container_has_less_than_the_machine(limit: int | None, bytes_: int, source: str) -> None:
    budget = budget_from("CPU", CPU, 16 * GIB, limit, asked_bytes=0, fraction=0.75)
    assert (budget.bytes, budget.source) == (bytes_, source)


def test_what_is_asked_for_wins_but_cannot_exceed_what_there_is() -> None:
    asked = budget_from("CPU", CPU, 16 * GIB, None, asked_bytes=15 * GIB, fraction=0.5)
    assert asked.bytes == 15 * GIB
    assert asked.source == "as configured; else 8.0 GiB, 50% of this machine's memory"
    too_much = budget_from("CPU", CPU, 16 * GIB, None, asked_bytes=64 * GIB, fraction=0.5)
    assert too_much.bytes == 16 * GIB
    assert too_much.source == "all of this machine's memory, less than the 64.0 GiB that were asked for"


def write_limits(root: Path, limits: dict[str, str]) -> None:
    for name, text in limits.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("membership", "limits", "expected"),
    [
        ("0::/a/b", {"memory.max": "max", "a/memory.max": "3000", "a/b/memory.max": "max"}, 3000),
        ("0::/a/b", {"a/memory.max": "3000", "a/b/memory.max": "2000"}, 2000),
        ("0::/", {"memory.max": "1000"}, 1000),  # a container that sees its own group as the root
        ("0::/../../outside", {"memory.max": "1000", "../memory.max": "10"}, 1000),
        ("0::/a", {"a/memory.max": "max"}, None),
        ("4:memory:/docker/x\n0::/", {"memory/memory.limit_in_bytes": "500"}, 500),  # the path is the host's
        ("4:memory:/d", {"memory/memory.limit_in_bytes": "900", "memory/d/memory.limit_in_bytes": "800"}, 800),
        ("3:cpu,memory:/d", {"memory/d/memory.limit_in_bytes": "800"}, 800),
        ("2:cpu:/d", {"memory/d/memory.limit_in_bytes": "800"}, None),
        ("nonsense", {"memory.max": "what"}, None),
    ],
)
def test_the_smallest_limit_of_a_group_and_those_above_it(
    tmp_path: Path, membership: str, limits: dict[str, str], expected: int | None
) -> None:
    write_limits(tmp_path / "cgroup", limits)
    (tmp_path / "self").write_text(f"{membership}\n")
    assert cgroup_limit(tmp_path / "cgroup", tmp_path / "self") == expected


def test_no_cgroups_no_limit(tmp_path: Path) -> None:
    assert cgroup_limit(tmp_path / "none", tmp_path / "neither") is None


def test_this_machine_has_a_budget() -> None:
    most = memory_budget(2**60, 0.7)
    assert 0 < memory_budget(0, 0.5).bytes <= most.bytes < 2**60
    assert memory_budget(MIB, 0.7).bytes == MIB


def about(count: int) -> Any:
    """Give or take the scalars that mlx makes on the way."""
    return pytest.approx(count, abs=64)


def test_a_reading_tells_what_is_held_and_what_was() -> None:
    before = read_memory()
    array = mx.zeros((MIB,), mx.float32)
    mx.eval(array)
    held = read_memory()
    assert held.active_bytes == about(before.active_bytes + 4 * MIB)
    assert held.peak_bytes == about(held.active_bytes)
    assert read_memory().peak_bytes == held.active_bytes, "what is held is a peak too"
    mx.eval(mx.zeros((MIB,), mx.float32))
    del array
    after = read_memory()
    assert after.active_bytes == about(before.active_bytes)
    assert after.peak_bytes == about(before.active_bytes + 8 * MIB)
    assert read_memory().peak_bytes == about(before.active_bytes), "a peak is since the last reading"


def test_mlx_keeps_few_freed_buffers() -> None:
    before = mx.set_cache_limit(2**40)
    try:
        limit_before = mx.set_memory_limit(2**40)
        assert limit_allocator(400 * MIB) == 40 * MIB
        assert limit_allocator(4000 * MIB) == 40 * MIB
        assert mx.set_cache_limit(40 * MIB) == 40 * MIB, "a limit is never raised"
        assert limit_allocator(100 * MIB) == 10 * MIB
        mx.eval([mx.zeros((MIB,), mx.float32) for _ in range(8)])
        assert mx.get_cache_memory() <= 10 * MIB
        assert mx.set_memory_limit(limit_before) == 100 * MIB
    finally:
        mx.set_cache_limit(before)
