"""What the machine is and how it fares."""

import asyncio
import platform

import psutil  # type: ignore[import-untyped]
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.engine.mlx_thread import MlxThread
from gateway.hardware.apple_silicon import read_mac
from gateway.hardware.monitor import HardwareMonitor


class HardwareObject(Struct, frozen=True):
    """Bytes; null where the system does not say. `working_set_bytes` is what Metal recommends at most, and
    `wired_limit_bytes` what the operator lets the GPU pin (0: the system's own choice)."""

    chip: str
    cores: int | None
    performance_cores: int | None
    efficiency_cores: int | None
    memory_bytes: int
    working_set_bytes: int | None
    wired_limit_bytes: int | None
    memory_pressure: str | None
    thermal_state: str | None
    reactions: list[str]


class HardwareEndpoints:
    def __init__(self, thread: MlxThread, monitor: HardwareMonitor) -> None:
        self._thread = thread
        self._monitor = monitor

    async def describe(self, request: Request) -> Response:
        """GET /admin/hardware"""
        operator_only(request)
        info = await asyncio.wrap_future(self._thread.run(_device_info))
        mac = await asyncio.to_thread(read_mac)
        reading = self._monitor.reading
        working_set = info.get("max_recommended_working_set_size")
        return json_response(
            HardwareObject(
                mac.chip if mac else str(info.get("device_name") or platform.processor() or platform.machine()),
                psutil.cpu_count(logical=False),
                mac.performance_cores if mac else None,
                mac.efficiency_cores if mac else None,
                psutil.virtual_memory().total,
                None if working_set is None else int(working_set),
                mac.wired_limit_bytes if mac else None,
                None if reading.pressure is None else reading.pressure.name.lower(),
                None if reading.thermal is None else reading.thermal.name.lower(),
                list(self._monitor.stance.in_force),
            )
        )


def _device_info() -> dict[str, str | int]:
    """On the MLX thread, which alone may import mlx."""
    from gateway.hardware.memory import device_info

    return device_info()
