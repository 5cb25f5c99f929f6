"""How short memory is and how hot the machine is, as its system says. Parsing is pure; reads may block. No mlx here."""

import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Pressure(IntEnum):
    NORMAL = 0
    WARNING = 1
    CRITICAL = 2


class Thermal(IntEnum):
    """Apple's ProcessInfo.ThermalState, by number."""

    NOMINAL = 0
    FAIR = 1
    SERIOUS = 2
    CRITICAL = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """None where the system does not say."""

    pressure: Pressure | None = None
    thermal: Thermal | None = None


COMMAND_SECONDS = 5.0
PSI_LINE = re.compile(r"^(some|full) avg10=(\d+(?:\.\d+)?) ", re.MULTILINE)
SPEED_LIMIT = re.compile(r"CPU_Speed_Limit\s*=\s*(\d+)")
TRIP_STATES = {"passive": Thermal.FAIR, "hot": Thermal.SERIOUS, "critical": Thermal.CRITICAL}
"""Linux's trip points, by Documentation/driver-api/thermal/sysfs-api.rst; `active` only turns a fan on."""


def pressure_of_macos(text: str) -> Pressure | None:
    """`sysctl -n kern.memorystatus_vm_pressure_level`: 1 normal, 2 warning, 4 critical (dispatch/source.h)."""
    return {"1": Pressure.NORMAL, "2": Pressure.WARNING, "4": Pressure.CRITICAL}.get(text.strip())


def pressure_of_linux(text: str, warning_percent: float, critical_percent: float) -> Pressure | None:
    """Of PSI's `some`: the share of the last ten seconds in which some task waited for memory (psi.rst)."""
    shares = {kind: float(share) for kind, share in PSI_LINE.findall(text)}
    if "some" not in shares:
        return None
    if shares["some"] >= critical_percent:
        return Pressure.CRITICAL
    return Pressure.WARNING if shares["some"] >= warning_percent else Pressure.NORMAL


def thermal_of_macos(text: str) -> Thermal | None:
    """`pmset -g therm`: full speed while nothing is recorded; a lower CPU_Speed_Limit (percent) is throttling."""
    if limit := SPEED_LIMIT.search(text):
        percent = int(limit[1])
        states = ((100, Thermal.NOMINAL), (80, Thermal.FAIR), (50, Thermal.SERIOUS))
        return next((state for least, state in states if percent >= least), Thermal.CRITICAL)
    return Thermal.NOMINAL if "No thermal warning level has been recorded" in text else None


def thermal_of_linux(zones: Path = Path("/sys/class/thermal")) -> Thermal | None:
    """The worst of all zones, by the trip points that each has passed; None without any."""
    states = [state for zone in sorted(zones.glob("thermal_zone*")) for state in _zone_states(zone)]
    return max(states, default=None)


def read_hardware(pressure_files: Iterable[Path], warning_percent: float, critical_percent: float) -> Reading:
    """Blocks for some seconds at most. The first of `pressure_files` (Linux) that can be read counts."""
    if sys.platform == "darwin":
        level = _output("/usr/sbin/sysctl", "-n", "kern.memorystatus_vm_pressure_level")
        return Reading(pressure_of_macos(level), thermal_of_macos(_output("/usr/bin/pmset", "-g", "therm")))
    text = next((found for file in pressure_files if (found := _text(file))), "")
    return Reading(pressure_of_linux(text, warning_percent, critical_percent), thermal_of_linux())


def _zone_states(zone: Path) -> Iterable[Thermal]:
    temperature = _text(zone / "temp").strip()
    if not temperature.lstrip("-").isdecimal():
        return
    yield Thermal.NOMINAL
    for kind in zone.glob("trip_point_*_type"):
        trip = _text(kind.with_name(kind.name.replace("_type", "_temp"))).strip()
        state = TRIP_STATES.get(_text(kind).strip())
        if state is not None and trip.isdecimal() and 0 < int(trip) <= int(temperature):
            yield state


def _output(*command: str) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)  # noqa: S603
        return run.stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
