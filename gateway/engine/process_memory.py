"""The one memory ledger of the process. Belongs to the MLX thread."""

import logging
from typing import TYPE_CHECKING

from gateway.config import HardwareConfig
from gateway.engine.memory_ledger import MemoryLedger

if TYPE_CHECKING:  # it imports mlx
    from gateway.hardware.memory import MemoryBudget

log = logging.getLogger(__name__)


class ProcessMemory:
    """Built by whoever starts the process, used by every engine; the budget is asked for at the first use."""

    def __init__(self, config: HardwareConfig) -> None:
        self._config = config
        self._ledger: MemoryLedger | None = None

    def ledger(self) -> MemoryLedger:
        """Only on the MLX thread."""
        if self._ledger is None:
            from gateway.hardware.memory import limit_allocator, memory_budget

            budget: MemoryBudget = memory_budget(self._config.memory_bytes, self._config.memory_fraction)
            limit_allocator(budget.bytes)
            log.info("models may take %.1f GiB of memory: %s", budget.bytes / 2**30, budget.source)
            self._ledger = MemoryLedger(budget.bytes)
        return self._ledger
