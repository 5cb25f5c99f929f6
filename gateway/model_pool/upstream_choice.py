"""Which server of a model gets the next request. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

AFFINITY_SLACK = 4
"""A session stays where its prefixes are kept, unless that server has so many requests more than another."""

FIRST_REST_SECONDS = 1.0
MOST_REST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Standing:
    """`outstanding` requests of at most `max_concurrent` (0: any number). A server that is not `up` gets none; one that
    rests until a time (seconds of the event loop's clock) gets some only if all others rest or are down."""

    outstanding: int
    max_concurrent: int
    up: bool
    rests_until: float

    @property
    def has_room(self) -> bool:
        return not self.max_concurrent or self.outstanding < self.max_concurrent


def choose(standings: Mapping[str, Standing], now: float, session: str, home: str | None) -> str | None:
    """The name of the server to ask: the session's `home` if that is fit, else the one with the least to do.

    None if every one that is up has its fill. `standings` holds those that may be asked.
    """
    fit = {name: one for name, one in standings.items() if one.up and one.has_room}
    rested = {name: one for name, one in fit.items() if one.rests_until <= now}
    candidates = rested or fit
    if not candidates:
        return None
    least = min(one.outstanding for one in candidates.values())
    if home in candidates and candidates[home].outstanding <= least + AFFINITY_SLACK:
        return home
    idlest = [name for name, one in candidates.items() if one.outstanding == least]
    return max(idlest, key=lambda name: _rank(session, name))


def rest_seconds(failures_in_a_row: int) -> float:
    """How long a server rests after a failure, so that others are asked first."""
    doubled: float = FIRST_REST_SECONDS * 2.0 ** min(failures_in_a_row - 1, 10)
    return min(MOST_REST_SECONDS, doubled)


def _rank(session: str, name: str) -> bytes:
    """Rendezvous hashing: after a restart of the gateway an idle fleet gets each session where it was before."""
    return blake2b(f"{session}\0{name}".encode(errors="replace"), digest_size=8).digest()
