"""What the prefix cache keeps: extents of tokens, and what a model computed for them, in parts. No mlx here.

A sequence of tokens is cut into blocks of `BLOCK_TOKENS`. The chain digest of a block stands for all tokens up to its
end: it is the hash of the block's tokens and of the digest before it. The chain of one namespace (a model, its adapter
and the layout of its caches) begins with the namespace's own digest, so that equal digests mean equal caches.

An extent is a run of tokens, computed in one go, that begins at a block boundary; only its last block may be partial.
What was computed for it is kept as up to three blobs, one for each kind of layer the model has:

- `FULL`: keys and values of every token, for layers that attend to all earlier tokens;
- `WINDOW`: keys and values of its last tokens, for layers that attend to a window;
- `STATE`: the states after its last token, of layers that cannot be cut back (state spaces).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

BLOCK_TOKENS = 32
DIGEST_BYTES = 16
TOKEN_BYTES = 4


class Part(StrEnum):
    FULL = "full"
    WINDOW = "window"
    STATE = "state"


class BlobKey(NamedTuple):
    """`extent` is `Extent.key`."""

    extent: bytes
    part: Part


@dataclass(frozen=True, slots=True)
class Extent:
    """`tokens` are ids as little-endian uint32, at least one; `start` tokens come before it, a multiple of
    `BLOCK_TOKENS`.

    `parent` is the chain digest before its first token, `key` that after its last.
    """

    namespace: bytes
    parent: bytes
    start: int
    tokens: bytes
    key: bytes

    @property
    def end(self) -> int:
        """Tokens up to its end, from the beginning of the sequence."""
        return self.start + len(self.tokens) // TOKEN_BYTES


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array as bytes, in row-major order. `dtype` is mlx's name for it, such as `bfloat16`."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Blob:
    """One part of one extent, ready to be written or just read. The engine gives the arrays their meaning.

    `first` is the first token within the extent whose keys and values are held (`WINDOW` may hold the last ones only).
    """

    extent: Extent
    part: Part
    first: int
    arrays: Sequence[StoredArray]

    @property
    def key(self) -> BlobKey:
        return BlobKey(self.extent.key, self.part)

    @property
    def nbytes(self) -> int:
        return sum(len(array.data) for array in self.arrays)


def chain(digest: bytes, tokens: bytes) -> bytes:
    """The digest after one more block, which may be partial."""
    return sha256(digest + tokens).digest()[:DIGEST_BYTES]
