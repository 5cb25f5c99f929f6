"""What must go for a model to come into memory, or why nothing helps. Pure.

Models are evicted least recently used first, and only those that serve nobody and are not pinned. Where that is not
enough, models that serve are drained: those that had their turn for longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.engine.process_memory import MemoryRoom

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory: its weights, how many requests hold it, and when (in seconds) it was used and loaded last."""

    model_id: str
    weight_bytes: int
    leases: int = 0
    pinned: bool = False
    last_used: float = 0.0
    loaded_at: float = 0.0

    @property
    def may_go(self) -> bool:
        return not self.leases and not self.pinned


@dataclass(frozen=True, slots=True)
class Fits:
    """There is room as it is."""


@dataclass(frozen=True, slots=True)
class Evict:
    """There is room once these have gone; they serve nobody."""

    model_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """There will be room once these have served whom they serve, and have gone."""

    model_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AwaitEnds:
    """There will be room once these have served whom they serve, though they stay."""

    model_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Nothing that may go is enough. `pinned` are the ids and bytes of what may not."""

    needed_bytes: int
    budget_bytes: int
    pinned: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        needs = f"needs {self.needed_bytes / MIB:.0f} MiB of the memory budget of {self.budget_bytes / MIB:.0f} MiB"
        if self.needed_bytes > self.budget_bytes or not self.pinned:
            return f"it {needs}. Raise hardware.memory_bytes or hardware.memory_fraction, or use a smaller one"
        held = ", ".join(f"{model_id} ({size / MIB:.0f} MiB)" for model_id, size in self.pinned)
        return f"it {needs}, where these are pinned: {held}. Unpin one of them, or raise hardware.memory_bytes"


Plan = Fits | Evict | Drain | AwaitEnds | NoRoom


def plan_room(needed_bytes: int, room: MemoryRoom, residents: Sequence[Resident]) -> Plan:
    """How `needed_bytes` come to fit."""
    free_bytes = room.free_bytes
    if needed_bytes <= free_bytes:
        return Fits()
    lacking = needed_bytes - free_bytes
    idle = sorted((model for model in residents if model.may_go), key=lambda model: model.last_used)
    if chosen := _enough(idle, lacking):
        return Evict(chosen)
    lacking_at_rest = lacking - room.passing_bytes - sum(model.weight_bytes for model in idle)
    serving = sorted((model for model in residents if model.leases), key=lambda model: model.loaded_at)
    if lacking_at_rest <= 0 and serving:
        return AwaitEnds(tuple(model.model_id for model in serving))
    if chosen := _enough([model for model in serving if not model.pinned], lacking_at_rest):
        return Drain(chosen)
    pinned = tuple((model.model_id, model.weight_bytes) for model in residents if model.pinned)
    return NoRoom(needed_bytes, room.budget_bytes, pinned)


def _enough(candidates: Sequence[Resident], lacking_bytes: int) -> tuple[str, ...]:
    """As many from the front as it takes, without those that the later ones make needless; empty if all are not
    enough."""
    chosen: list[Resident] = []
    for model in candidates:
        if sum(each.weight_bytes for each in chosen) >= lacking_bytes:
            break
        chosen.append(model)
    surplus = sum(each.weight_bytes for each in chosen) - lacking_bytes
    if surplus < 0:
        return ()
    for model in list(reversed(chosen)):
        if model.weight_bytes <= surplus and len(chosen) > 1:
            chosen.remove(model)
            surplus -= model.weight_bytes
    return tuple(model.model_id for model in chosen)
