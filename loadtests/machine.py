"""What the figures were measured on, for the report."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("mlx", "mlx-lm", "mlx-gateway")


@dataclass(frozen=True, slots=True)
class Machine:
    """`load_average` is that of the last minute before the measurement: others' work disturbs it."""

    cpu: str
    cores: int
    system: str
    python: str
    load_average: float
    versions: dict[str, str]


def this_machine() -> Machine:
    return Machine(
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        load_average=round(os.getloadavg()[0], 2),
        versions={package: version(package) for package in PACKAGES},
    )


def _cpu_model() -> str:
    if sys.platform == "darwin":
        return subprocess.check_output(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
