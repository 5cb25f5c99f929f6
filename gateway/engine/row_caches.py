"""What the engine asks of the KV caches of rows that share forward passes, and which kind suits a model.

`RaggedCaches` are the gateway's own, for models whose every layer attends to all earlier tokens. `AlignedCaches` hold
everything else in mlx-lm's batch caches.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gateway.prefix_cache.extent import Part
from gateway.prefix_cache.row_state import Piece, Prefix


class RowCaches(Protocol):
    """`layers` is what the model takes as its cache; a forward pass of width w writes w tokens to every row.

    `commit` then says how many of them count; the rest is forgotten and overwritten.
    """

    layers: list[Any]
    rewindable: bool

    @property
    def arrays(self) -> list[Any]:
        """What must be evaluated for the last pass to be done."""

    @property
    def nbytes(self) -> int: ...

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row."""

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""

    @property
    def room(self) -> tuple[int, int]:
        """Rows and tokens that the buffers have room for, where that may be more than what they hold."""

    def commit(self, counts: Sequence[int]) -> None: ...

    def add_row(self, prefix: Prefix, more_tokens: int) -> None:
        """Appends a row that holds a prefix, which may be empty, and will grow by so many tokens."""

    def add(self, source: "RowCaches", row: int, copies: int) -> None:
        """Appends `copies` rows with the content of one row of `source`, which has the same kind."""

    def take_over(self, source: "RowCaches") -> bool:
        """Takes all rows of `source`, which is of no use afterwards, without copying; False if that cannot be done."""

    def export(self, row: int, start: int) -> Mapping[Part, Piece]:
        """Views of what was computed for a row from its token `start` on; copy them before the next pass.

        A window layer gives the last of these tokens only, if it holds no more.
        """

    def remove(self, rows: Sequence[int]) -> list[int]:
        """Drops rows. Returns the former numbers of those that stay, in their new order."""

    def fit(self) -> None:
        """Gives back all memory that is not needed now."""

    def grow(self, rows: int, tokens: int, parts: int) -> None:
        """Makes one part in `parts` of the room that is still missing for so many rows and tokens."""
