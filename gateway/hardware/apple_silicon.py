"""What a Mac says of itself, and how much of its memory the GPU may pin. No mlx here; reads may block."""

import subprocess
import sys
from dataclasses import dataclass

GIB = 2**30

KEYS = (
    "machdep.cpu.brand_string",
    "hw.memsize",
    "hw.physicalcpu",
    "hw.perflevel0.physicalcpu",
    "hw.perflevel1.physicalcpu",
    "iogpu.wired_limit_mb",
)
"""Of sysctl(8). One that a system does not have is only missing in the answer."""

LEAST_FOR_SYSTEM_BYTES = 4 * GIB
SYSTEM_SHARE = 8
UNDO = "sudo sysctl iogpu.wired_limit_mb=0"
"""The system's own choice again, which a restart of the machine brings back as well."""


@dataclass(frozen=True, slots=True)
class Mac:
    """`wired_limit_bytes` 0: the system's own choice, about two thirds or three quarters of the memory."""

    chip: str
    memory_bytes: int
    cores: int
    performance_cores: int
    efficiency_cores: int
    wired_limit_bytes: int


def read_mac() -> Mac | None:
    """None on other systems, and where sysctl does not answer."""
    if sys.platform != "darwin":
        return None
    command = ["/usr/sbin/sysctl", *KEYS]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return mac_from(run.stdout)


def mac_from(sysctl: str) -> Mac | None:
    """Of lines such as `hw.memsize: 17179869184`; None unless they tell chip and memory."""
    pairs = (line.partition(":") for line in sysctl.splitlines())
    values = {key.strip(): value.strip() for key, _, value in pairs}

    def number(key: str) -> int:
        text = values.get(key, "")
        return int(text) if text.isascii() and text.isdecimal() else 0

    chip, memory = values.get("machdep.cpu.brand_string", ""), number("hw.memsize")
    if not chip or not memory:
        return None
    performance, efficiency = number("hw.perflevel0.physicalcpu"), number("hw.perflevel1.physicalcpu")
    cores = number("hw.physicalcpu") or performance + efficiency
    return Mac(chip, memory, cores, performance, efficiency, number("iogpu.wired_limit_mb") * 2**20)


def advised_wired_limit_mb(memory_bytes: int) -> int:
    """All memory but an eighth, and but 4 GiB at least, for the system and other programs; in MiB.

    16 GiB: 12, 64 GiB: 56, 512 GiB: 448. 0 (leave it to the system) for a Mac of less than 16 GiB.
    """
    if memory_bytes < 16 * GIB:
        return 0
    return (memory_bytes - max(LEAST_FOR_SYSTEM_BYTES, memory_bytes // SYSTEM_SHARE)) // 2**20


def wired_limit_command(mac: Mac) -> list[str] | None:
    """What raises the limit to the advised one; None if it is as high already, or nothing is advised."""
    advised = advised_wired_limit_mb(mac.memory_bytes)
    if not advised or mac.wired_limit_bytes >= advised * 2**20:
        return None
    return ["sudo", "sysctl", f"iogpu.wired_limit_mb={advised}"]
