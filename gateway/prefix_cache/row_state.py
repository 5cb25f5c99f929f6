"""What a model computed for some tokens of a row, as it moves between the engine's caches and the prefix cache.

Belongs to the MLX thread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from gateway.prefix_cache.extent import Part


@dataclass(frozen=True, slots=True)
class Piece:
    """One part's arrays for the tokens from `start` to `end` of a row, without a batch axis.

    Keys and values are (heads, end - start, size), layer after layer; a `STATE` is what stands after `end` tokens.
    """

    start: int
    end: int
    arrays: Sequence[mx.array]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True, slots=True)
class Prefix:
    """All that a row needs to go on after `tokens` tokens; each part's pieces follow each other without a gap."""

    tokens: int
    parts: Mapping[Part, Sequence[Piece]]


NO_PREFIX = Prefix(0, {})
