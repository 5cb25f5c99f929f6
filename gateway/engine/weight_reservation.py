"""A model's weights in the memory ledger while they are loaded. Belongs to the MLX thread."""

from collections.abc import Generator

from gateway.engine.memory_ledger import MemoryLedger, weights_owner
from gateway.errors import MemoryShort


class WeightReservation:
    """What was claimed once stays held until `release`, or until the loaded model holds its weights itself."""

    def __init__(self, ledger: MemoryLedger, model_id: str) -> None:
        self._ledger = ledger
        self._owner = weights_owner(model_id)

    def claim(self, needed_bytes: int) -> Generator[float, float | None, None]:
        """`Slices`: holds the bytes, and waits until answers that were under way leave room for them; new ones are not
        begun before. Raises `MemoryShort` if other models' weights leave too little."""
        ledger = self._ledger
        available = ledger.most_bytes(ledger.work_space_bytes) + ledger.held_by(self._owner)
        if needed_bytes > available:
            raise MemoryShort(needed_bytes, available, ledger.budget_bytes)
        ledger.hold(self._owner, needed_bytes, lasting=True)
        while not ledger.fits_now(self._owner, needed_bytes):
            if (yield 0.0) is None:  # nothing is under way that could make room
                raise MemoryShort(needed_bytes, needed_bytes + ledger.free_bytes, ledger.budget_bytes)

    def release(self) -> None:
        self._ledger.release(self._owner)
