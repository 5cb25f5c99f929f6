"""An extent as the index keeps it: its tokens, what is held of it in which tier, and who used it. No mlx here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from gateway.prefix_cache.extent import TOKEN_BYTES, Extent, Part

MOST_SESSIONS = 8
"""Distinct sessions that are counted for an extent; more make no difference."""


class Tier(StrEnum):
    """Where blobs are, fastest first."""

    RAM = "ram"
    SSD = "ssd"


class Held(NamedTuple):
    """A blob in a tier. `first` is the first token within the extent that it has keys and values of."""

    nbytes: int
    first: int


@dataclass(slots=True, eq=False)
class CachedExtent:
    """Changed by `TokenTree` only; others may read it, on the MLX thread.

    `digests` are the chain digests after each of its whole blocks. `lost` are the parts that were held once and are no
    longer, with the first token they had. `sessions` are hashes of the first few that used it.
    """

    extent: Extent
    digests: Sequence[bytes]
    held: dict[tuple[Part, Tier], Held] = field(default_factory=dict)
    lost: dict[Part, int] = field(default_factory=dict)
    used: float = 0.0
    sessions: tuple[int, ...] = ()
    last_session: str = ""
    key: bytes = field(init=False)
    start: int = field(init=False)
    end: int = field(init=False)
    alone: dict[bytes, "CachedExtent"] = field(init=False, repr=False)
    """Only itself, by key: the index entry of every block that no other extent has. Never changed."""

    def __post_init__(self) -> None:
        self.key, self.start, self.end = self.extent.key, self.extent.start, self.extent.end
        self.alone = {self.key: self}

    def first_held(self, part: Part) -> int | None:
        """The first token within the extent that `part` is held of, in any tier; None if it is in none."""
        return min((held.first for (kind, _), held in self.held.items() if kind is part), default=None)

    def was_used_by(self, session: str) -> bool:
        return self.last_session == session or hash(session) in self.sessions

    def lies_before(self, other: "CachedExtent") -> bool:
        """Whether all its tokens belong to the sequence that `other` is the end of.

        It must be known to agree with that sequence as far as `other.start`.
        """
        if self.end <= other.start:
            return True
        shared = (other.start - self.start) * TOKEN_BYTES
        return other.extent.tokens.startswith(self.extent.tokens[shared:])
