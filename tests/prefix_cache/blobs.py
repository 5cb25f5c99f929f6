"""Blobs of made-up bytes. The payload follows from the tokens, so that any reader can tell whether it is right."""

import hashlib
import random
from collections.abc import Sequence

from gateway.prefix_cache.extent import BLOCK_BYTES, TOKEN_BYTES, Blob, BlobKey, Extent, Part, StoredArray, chain

NAMESPACE = b"a model's digest"
OTHER_NAMESPACE = b"another's digest"


def tokens_of(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count * TOKEN_BYTES)


def extent(tokens: bytes, parent: bytes = NAMESPACE, start: int = 0, namespace: bytes = NAMESPACE) -> Extent:
    digest = parent
    for offset in range(0, len(tokens), BLOCK_BYTES):
        digest = chain(digest, tokens[offset : offset + BLOCK_BYTES])
    return Extent(namespace, parent, start, tokens, digest)


def payload(key: BlobKey, nbytes: int) -> bytes:
    seed = hashlib.sha256(key.extent + key.part.encode()).digest()
    return random.Random(seed).randbytes(nbytes)


def blob(
    seed: int = 0, nbytes: int = 1000, *, start: int = 0, namespace: bytes = NAMESPACE, part: Part = Part.FULL
) -> Blob:
    """One array of bytes."""
    return blob_of(extent(tokens_of(seed, 40), namespace, start, namespace), nbytes, part)


def blob_of(one: Extent, nbytes: int, part: Part = Part.FULL) -> Blob:
    return Blob(one, part, 0, [StoredArray("uint8", (nbytes,), payload(BlobKey(one.key, part), nbytes))])


def sequence(seed: int, count: int, nbytes: int) -> list[Blob]:
    """Extents that follow each other, two blocks each."""
    blobs: list[Blob] = []
    parent = NAMESPACE
    for number in range(count):
        one = extent(tokens_of(1000 * seed + number, 64), parent, 64 * number)
        blobs.append(blob_of(one, nbytes))
        parent = one.key
    return blobs


def same(one: Blob, other: Blob) -> bool:
    """Equal in all, whatever kind of buffer holds the bytes."""
    return _values(one) == _values(other)


def is_right(one: Blob) -> bool:
    """It is one of `blob_of`'s, untouched."""
    return same(one, blob_of(one.extent, one.nbytes, one.part))


def _values(one: Blob) -> tuple[Extent, Part, int, Sequence[tuple[str, tuple[int, ...], bytes]]]:
    return one.extent, one.part, one.first, [(array.dtype, array.shape, bytes(array.data)) for array in one.arrays]
