"""The one memory ledger of the process. Belongs to the MLX thread."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.config import HardwareConfig
from gateway.engine.memory_ledger import MemoryLedger

if TYPE_CHECKING:  # it imports mlx
    from gateway.hardware.memory import MemoryBudget

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """`free_bytes` is what nobody holds, or holds and gives up when asked; negative when the budget is overrun.
    `passing_bytes` are held by running requests."""

    budget_bytes: int
    free_bytes: int
    passing_bytes: int = 0


class ProcessMemory:
    """Built by whoever starts the process, used by every engine; the budget is asked for at the first use."""

    def __init__(self, config: HardwareConfig) -> None:
        self._config = config
        self.most_tokens = 0  # of a request while memory is short; 0: any. Belongs to the event loop.
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

    def room(self) -> MemoryRoom:
        """Only on the MLX thread."""
        ledger = self.ledger()
        yielding = ledger.yielding_bytes
        return MemoryRoom(ledger.budget_bytes, ledger.free_bytes + yielding, ledger.passing_bytes - yielding)
