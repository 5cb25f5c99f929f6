"""What macOS and Linux say, in the formats they publish."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hardware.pressure import (
    Pressure,
    Thermal,
    pressure_of_linux,
    pressure_of_macos,
    thermal_of_linux,
    thermal_of_macos,
)
from gateway.hardware.reactions import STEPS, Reaction, Stance, next_stance

COOL_APPLE_SILICON = """\
Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
THROTTLED = """\
Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
2026-03-01 12:00:00 +0100 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 8
\tCPU_Speed_Limit \t= {limit}
"""


def psi(some: float) -> str:
    return f"some avg10={some:.2f} avg60=0.10 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n"


@pytest.mark.parametrize(("text", "pressure"), [("1\n", 0), ("2\n", 1), ("4\n", 2), ("", None), ("unknown oid", None)])
def test_macos_levels(text: str, pressure: int | None) -> None:
    assert pressure_of_macos(text) == pressure


@pytest.mark.parametrize(("some", "pressure"), [(0, 0), (9.99, 0), (10, 1), (39.99, 1), (40, 2), (100, 2)])
def test_linux_shares(some: float, pressure: int) -> None:
    assert pressure_of_linux(psi(some), 10, 40) == pressure


@given(st.text())
def test_no_text_upsets_the_parsers(text: str) -> None:
    for parsed in (pressure_of_linux(text, 10, 40), pressure_of_macos(text)):
        assert parsed is None or parsed in Pressure
    assert thermal_of_macos(text) in (None, *Thermal)


@pytest.mark.parametrize(("limit", "state"), [(100, 0), (90, 1), (60, 2), (30, 3)])
def test_a_throttled_mac(limit: int, state: int) -> None:
    assert thermal_of_macos(THROTTLED.format(limit=limit)) == state


def test_a_cool_mac() -> None:
    assert thermal_of_macos(COOL_APPLE_SILICON) is Thermal.NOMINAL


def test_the_hottest_zone_of_linux_counts(tmp_path: Path) -> None:
    assert thermal_of_linux(tmp_path) is None
    for number, temperature in enumerate((40_000, 91_000)):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(f"{temperature}\n")
        for point, (kind, trip) in enumerate((("passive", 80_000), ("hot", 90_000), ("critical", 105_000))):
            (zone / f"trip_point_{point}_type").write_text(f"{kind}\n")
            (zone / f"trip_point_{point}_temp").write_text(f"{trip}\n")
    assert thermal_of_linux(tmp_path) is Thermal.SERIOUS


def test_steps_come_one_by_one_and_go_one_by_one() -> None:
    stance = next_stance(Stance(), Pressure.CRITICAL, 100, step_seconds=10, calm_seconds=30)
    assert stance.in_force == (Reaction.TRIM_PREFIXES,)
    seen = []
    for now in range(101, 300):
        pressure = Pressure.CRITICAL if now < 150 else Pressure.NORMAL
        before, stance = stance.steps, next_stance(stance, pressure, now, step_seconds=10, calm_seconds=30)
        if stance.steps != before:
            seen.append((now, stance.steps))
    assert seen == [(110, 2), (120, 3), (180, 2), (210, 1), (240, 0)]


def test_a_warning_never_evicts() -> None:
    stance = Stance()
    for now in range(1000):
        stance = next_stance(stance, Pressure.WARNING, now, step_seconds=1, calm_seconds=1)
    assert Reaction.EVICT_IDLE not in stance.in_force


@given(st.lists(st.sampled_from((*Pressure, None)), max_size=60))
def test_calm_always_ends_in_no_reaction(pressures: list[Pressure | None]) -> None:
    stance, now = Stance(), 0.0
    for pressure in (*pressures, *[None] * (31 * (len(STEPS) + 1))):
        now += 1
        stance = next_stance(stance, pressure, now, step_seconds=2, calm_seconds=30)
    assert stance.steps == 0
