"""What is done when memory is short, step by step, and undone when it is not. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from gateway.hardware.pressure import Pressure


class Reaction(StrEnum):
    """In the order in which they come into force; each stays while a later one is."""

    TRIM_PREFIXES = "trim_prefixes"
    REFUSE_LONG = "refuse_long"
    EVICT_IDLE = "evict_idle"


STEPS = tuple(Reaction)
MOST_STEPS = {Pressure.NORMAL: 0, Pressure.WARNING: 2, Pressure.CRITICAL: len(STEPS)}


@dataclass(frozen=True, slots=True)
class Stance:
    """How many steps are in force, and since when (seconds of any one clock) that or the pressure is what it is."""

    steps: int = 0
    pressure: Pressure = Pressure.NORMAL
    since: float = 0.0

    @property
    def in_force(self) -> tuple[Reaction, ...]:
        return STEPS[: self.steps]


def next_stance(
    stance: Stance, pressure: Pressure | None, now: float, step_seconds: float, calm_seconds: float
) -> Stance:
    """One step more for each `step_seconds` of pressure, one less for each `calm_seconds` without.

    The first step comes at once. Pressure that is not known counts as none, so that nothing stays in force for ever.
    """
    pressure = pressure or Pressure.NORMAL
    most = MOST_STEPS[pressure]
    if (pressure is Pressure.NORMAL) != (stance.pressure is Pressure.NORMAL):
        begun = 1 if most and not stance.steps else stance.steps
        return Stance(begun, pressure, now)
    waited = now - stance.since
    if stance.steps < most and waited >= step_seconds:
        return Stance(stance.steps + 1, pressure, now)
    if stance.steps > most and waited >= calm_seconds:
        return Stance(stance.steps - 1, pressure, now)
    return Stance(stance.steps, pressure, stance.since)
