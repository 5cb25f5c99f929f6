"""Macs from M1 to Ultra, in the format of `sysctl` with several keys, by Apple's published specifications."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hardware.apple_silicon import GIB, advised_wired_limit_mb, mac_from, wired_limit_command


def sysctl(chip: str, gib: int, performance: int, efficiency: int, wired_mb: int = 0) -> str:
    return (
        f"machdep.cpu.brand_string: Apple {chip}\nhw.memsize: {gib * GIB}\nhw.physicalcpu: {performance + efficiency}\n"
        f"hw.perflevel0.physicalcpu: {performance}\nhw.perflevel1.physicalcpu: {efficiency}\n"
        f"iogpu.wired_limit_mb: {wired_mb}\n"
    )


MACS = [
    ("M1", 16, 4, 4),
    ("M1 Max", 64, 8, 2),
    ("M2 Ultra", 192, 16, 8),
    ("M3 Max", 128, 12, 4),
    ("M3 Ultra", 512, 24, 8),
    ("M4", 32, 4, 6),
    ("M4 Max", 128, 12, 4),
]


@pytest.mark.parametrize(("chip", "gib", "performance", "efficiency"), MACS)
def test_a_mac_is_read(chip: str, gib: int, performance: int, efficiency: int) -> None:
    mac = mac_from(sysctl(chip, gib, performance, efficiency))
    assert mac
    assert mac.chip == f"Apple {chip}"
    assert mac.memory_bytes == gib * GIB
    assert (mac.cores, mac.performance_cores, mac.efficiency_cores) == (
        performance + efficiency,
        performance,
        efficiency,
    )
    command = wired_limit_command(mac)
    assert command
    assert command[:2] == ["sudo", "sysctl"]


def test_keys_that_a_system_lacks() -> None:
    text = "machdep.cpu.brand_string: Apple M1\nhw.memsize: 8589934592\nsysctl: unknown oid 'iogpu.wired_limit_mb'\n"
    mac = mac_from(text)
    assert mac
    assert mac.wired_limit_bytes == 0
    assert wired_limit_command(mac) is None, "8 GiB are too few to take more from the system"


def test_a_limit_that_is_high_enough_stays() -> None:
    mac = mac_from(sysctl("M3 Max", 64, 12, 4, wired_mb=57344))
    assert mac
    assert wired_limit_command(mac) is None


@pytest.mark.parametrize(("gib", "left"), [(16, 4), (32, 4), (64, 8), (512, 64)])
def test_what_is_left_to_the_system(gib: int, left: int) -> None:
    assert advised_wired_limit_mb(gib * GIB) == (gib - left) * 1024


@given(st.text())
def test_any_text(text: str) -> None:
    mac = mac_from(text)
    assert mac is None or mac.memory_bytes > 0
