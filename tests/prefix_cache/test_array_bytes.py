"""Arrays on their way to disk and back; and what comes back as something that mlx does not know."""

from collections.abc import Sequence

import mlx.core as mx
import pytest

from gateway.prefix_cache.array_bytes import from_bytes, to_bytes
from gateway.prefix_cache.extent import Blob, BlobKey, Part, StoredArray
from gateway.prefix_cache.prefix_cache import PrefixCache
from gateway.prefix_cache.ram_tier import RamTier
from gateway.prefix_cache.restore import Needs
from gateway.prefix_cache.token_tree import token_ids
from tests.prefix_cache.blobs import NAMESPACE, extent, tokens_of

DTYPES = [mx.float32, mx.float16, mx.bfloat16, mx.uint32, mx.int8, mx.int64, mx.bool_]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_comes_back(dtype: mx.Dtype) -> None:
    array = (mx.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
    (back,) = from_bytes(to_bytes([array]))
    assert (back.dtype, back.shape) == (dtype, array.shape)
    assert mx.array_equal(back, array)


class AskedDisk:
    """Has what the test says; the test answers what it is asked to read."""

    def __init__(self) -> None:
        self.asked: list[BlobKey] = []

    def store(self, blob: Blob) -> bool:
        return True

    def read(self, keys: Sequence[BlobKey]) -> None:
        self.asked += keys

    def touch(self, keys: Sequence[BlobKey]) -> None:
        pass


@pytest.mark.parametrize(
    "array", [StoredArray("complex512", (1,), b"1234"), StoredArray("float32", (2, 64, 1), b"too few bytes")]
)
def test_whoever_waits_for_what_cannot_be_used_goes_on_without(array: StoredArray) -> None:
    disk = AskedDisk()
    ram = RamTier(lambda: 1 << 20, lambda held: None)
    cache = PrefixCache(NAMESPACE, Needs(), ram, disk)
    ram.add_owner(cache)
    tokens = tokens_of(1, 64)
    one = extent(tokens)
    cache.found_on_disk(one, Part.FULL, 0, 100)
    prompt = [*token_ids(tokens, 0, 64), 1]
    came: list[bool] = []
    assert cache.fetch(cache.find(prompt), lambda: came.append(True))
    (key,) = disk.asked
    cache.was_read(key, Blob(one, Part.FULL, 0, [array]))
    assert came == [True]
    assert cache.find(prompt).anywhere.tokens == 0
