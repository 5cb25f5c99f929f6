"""Watches memory pressure and heat, and says what is to be done. Belongs to the event loop; reads on another thread."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from gateway.config import HardwareConfig
from gateway.hardware.pressure import Pressure, Reading, read_hardware
from gateway.hardware.reactions import Reaction, Stance, next_stance
from gateway.observability.hardware_metrics import HardwareMetrics

PRESSURE_FILES = (Path("/sys/fs/cgroup/memory.pressure"), Path("/proc/pressure/memory"))
"""A container's own group first, then the whole machine."""

log = logging.getLogger(__name__)

React = Callable[[bool], Awaitable[None]]
"""Brings a reaction into force (True; called again at each look while it is) or ends it (False)."""


class HardwareMonitor:
    """`run` is a task. A reaction that fails is logged and tried again at the next look. `config` may be replaced."""

    def __init__(self, config: HardwareConfig, metrics: HardwareMetrics, reactions: Mapping[Reaction, React]) -> None:
        self.reading = Reading()
        self.stance = Stance()
        self.config = config
        self._metrics = metrics
        self._reactions = reactions
        for reaction in reactions:
            metrics.reactions.labels(reaction)  # so that it is there, as 0

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("memory pressure could not be looked at")
            await asyncio.sleep(self.config.pressure_check_seconds)

    async def look(self) -> None:
        """Reads, decides and acts once."""
        self.reading = await self._read()
        self._metrics.pressure.set(self.reading.pressure or Pressure.NORMAL)
        self._metrics.thermal.set(self.reading.thermal or 0)
        steps = self.config.pressure_step_seconds, self.config.pressure_calm_seconds
        before = self.stance
        self.stance = next_stance(before, self.reading.pressure, time.monotonic(), *steps)
        for reaction in self.stance.in_force:
            if reaction not in before.in_force:
                self._metrics.reactions.labels(reaction).inc()
                log.warning("memory pressure is %s: %s", self.stance.pressure.name.lower(), reaction)
            await self._reactions[reaction](True)
        for reaction in before.in_force[self.stance.steps :]:
            log.info("memory pressure is %s: no more %s", self.stance.pressure.name.lower(), reaction)
            await self._reactions[reaction](False)

    async def _read(self) -> Reading:
        """Nothing is known where nothing shall be done, so that what is in force ends."""
        config = self.config
        if config.pressure == "off":
            return Reading()
        files: Sequence[Path] = (Path(config.pressure_file),) if config.pressure_file else PRESSURE_FILES
        limits = config.pressure_warning_percent, config.pressure_critical_percent
        return await asyncio.to_thread(read_hardware, files, *limits)
