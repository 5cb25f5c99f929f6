"""What is kept in memory of all models' prefixes, within one limit. Belongs to the MLX thread."""

from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.prefix_cache.eviction import Candidate, victims
from gateway.prefix_cache.extent import BlobKey
from gateway.prefix_cache.row_state import Piece

SMALLEST_BLOB_BYTES = 2048
"""What a blob costs at least: its tokens, digests and entries. Those without arrays count as well."""

SLACK_SHARE = 20
"""When something must go, one part in so many of the room is emptied as well: choosing looks at everything there is."""


class Owner(Protocol):
    """One model's prefix cache."""

    def candidates(self) -> Iterable[Candidate]:
        """Its blobs in memory, as `eviction` looks at them."""

    def evicted_from_ram(self, key: BlobKey) -> None:
        """A blob is no longer in memory."""


class RamTier:
    """`allowed_bytes` says how much it may hold at present; `holds` is told how much it does."""

    def __init__(self, allowed_bytes: Callable[[], int], holds: Callable[[int], None]) -> None:
        self.evicted = 0
        self._allowed_bytes = allowed_bytes
        self._holds = holds
        self._pieces: dict[BlobKey, tuple[Piece, int]] = {}
        self._owners: list[Owner] = []
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        return self._bytes

    @property
    def room_bytes(self) -> int:
        """The most it could hold, whatever is there now."""
        return max(0, self._allowed_bytes())

    def add_owner(self, owner: Owner) -> None:
        self._owners.append(owner)

    def remove_owner(self, owner: Owner) -> None:
        """Its model has gone; the blobs must have been dropped."""
        self._owners.remove(owner)

    def get(self, key: BlobKey) -> Piece | None:
        found = self._pieces.get(key)
        return found[0] if found else None

    def put(self, key: BlobKey, piece: Piece) -> int | None:
        """Keeps a blob, for which others may have to go. Returns what it costs in bytes, None if there is no room."""
        cost = max(piece.nbytes, SMALLEST_BLOB_BYTES)
        if cost > self.room_bytes:
            return None
        self.give_up(self._bytes + cost - self.room_bytes)
        if self._bytes + cost > self.room_bytes:
            return None
        self._pieces[key] = piece, cost
        self._change(cost)
        return cost

    def drop(self, key: BlobKey) -> None:
        if found := self._pieces.pop(key, None):
            self._change(-found[1])

    def give_up(self, wanted_bytes: int) -> None:
        """Evicts at least so many bytes, if so much is there, least wanted first."""
        if wanted_bytes <= 0:
            return
        found = [(owner, candidate) for owner in self._owners for candidate in owner.candidates()]
        owners = {candidate.key: owner for owner, candidate in found}
        slack = self.room_bytes // SLACK_SHARE
        for key in victims([candidate for _, candidate in found], wanted_bytes, slack):
            self.drop(key)
            self.evicted += 1
            owners[key].evicted_from_ram(key)

    def _change(self, more_bytes: int) -> None:
        self._bytes += more_bytes
        self._holds(self._bytes)
