"""What is read is what was written, or an error that is declared."""

import os
import random
import resource
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.prefix_cache import block_file
from gateway.prefix_cache.block_file import (
    ITEM_BYTES,
    MAX_HEADER_BYTES,
    PREFIX,
    UNFINISHED_NAME,
    VERSION,
    BadBlockFile,
    Flaw,
    file_bytes,
    read,
    read_header,
    write,
)
from gateway.prefix_cache.cipher import SECTION_BYTES, Cipher, sealed_bytes
from gateway.prefix_cache.extent import BLOCK_TOKENS, Blob, Part, StoredArray
from tests.prefix_cache.blobs import blob, extent, same, tokens_of

PLAIN = Cipher()
ENCRYPTING = Cipher(bytes(range(32)))
CIPHERS = st.sampled_from([PLAIN, ENCRYPTING])
LAST_USED_NS = 1_700_000_000_123_456_789


@st.composite
def arrays(draw: st.DrawFn) -> StoredArray:
    dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    return StoredArray(dtype, shape, draw(st.randoms(use_true_random=False)).randbytes(prod(shape) * ITEM_BYTES[dtype]))


@st.composite
def blobs(draw: st.DrawFn) -> Blob:
    count = draw(st.integers(1, 100))
    one = extent(
        draw(st.randoms(use_true_random=False)).randbytes(4 * count),
        draw(st.binary(min_size=16, max_size=16)),
        BLOCK_TOKENS * draw(st.integers(0, 10_000)),
        draw(st.binary(max_size=40)),
    )
    first = draw(st.integers(0, count))
    return Blob(one, draw(st.sampled_from(Part)), first, draw(st.lists(arrays(), max_size=6)))


@settings(max_examples=60, deadline=None)
@given(blobs(), CIPHERS)
def test_what_is_read_is_what_was_written(one: Blob, cipher: Cipher) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.kv"
        write(path, one, cipher, LAST_USED_NS)
        assert path.stat().st_size == file_bytes(one)
        assert path.stat().st_mtime_ns == LAST_USED_NS
        assert same(read(path, cipher), one)
        header = read_header(path, cipher)
    assert (header.extent, header.part, header.first, header.nbytes) == (one.extent, one.part, one.first, one.nbytes)


@pytest.mark.parametrize("cipher", [PLAIN, ENCRYPTING])
@pytest.mark.parametrize("nbytes", [0, SECTION_BYTES - 1, SECTION_BYTES, SECTION_BYTES + 1, 3 * SECTION_BYTES])
def test_arrays_around_a_sections_length(tmp_path: Path, cipher: Cipher, nbytes: int) -> None:
    one = blob(nbytes=nbytes)
    write(tmp_path / "a.kv", one, cipher, LAST_USED_NS)
    assert (tmp_path / "a.kv").stat().st_size == file_bytes(one)
    assert same(read(tmp_path / "a.kv", cipher), one)


def test_arrays_are_aligned_for_any_type(tmp_path: Path) -> None:
    one = replace(blob(), arrays=[StoredArray("uint8", (3,), b"abc"), StoredArray("complex64", (2,), bytes(16))])
    write(tmp_path / "a.kv", one, PLAIN, LAST_USED_NS)
    for array in read(tmp_path / "a.kv", PLAIN).arrays:
        view = np.frombuffer(array.data, np.uint8)
        assert view.ctypes.data % ITEM_BYTES["complex64"] == 0
        assert not view.flags.writeable


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "a.kv", blob(), PLAIN, LAST_USED_NS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.kv").stat().st_mode) == 0o600


# --- damage ----------------------------------------------------------------------------------------------


class Bench:
    """A written file to be damaged."""

    def __init__(self, folder: Path, cipher: Cipher, one: Blob) -> None:
        self.cipher = cipher
        self.path = folder / "a.kv"
        write(self.path, one, cipher, LAST_USED_NS)
        self.whole = self.path.read_bytes()

    def refuses(self, data: bytes) -> Flaw:
        self.path.write_bytes(data)
        with pytest.raises(BadBlockFile) as raised:
            read(self.path, self.cipher)
        return raised.value.flaw


@pytest.mark.parametrize("cipher", [PLAIN, ENCRYPTING])
def test_every_changed_byte_is_found(tmp_path: Path, cipher: Cipher) -> None:
    bench = Bench(tmp_path, cipher, blob(nbytes=300))
    for position, byte in enumerate(bench.whole):
        for changed in (byte ^ 1, byte ^ 0x80, 0 if byte else 255):
            bench.refuses(bench.whole[:position] + bytes([changed]) + bench.whole[position + 1 :])


@pytest.mark.parametrize("cipher", [PLAIN, ENCRYPTING])
def test_every_shortened_or_lengthened_file_is_found(tmp_path: Path, cipher: Cipher) -> None:
    bench = Bench(tmp_path, cipher, blob(nbytes=300))
    for length in range(len(bench.whole)):
        assert bench.refuses(bench.whole[:length]) is Flaw.TRUNCATED
    assert bench.refuses(bench.whole + b"\0") is Flaw.TRUNCATED


@settings(max_examples=150, deadline=None)
@given(st.data(), CIPHERS)
def test_torn_files_are_found(data: st.DataObject, cipher: Cipher) -> None:
    """Pages that never reached the disk: zeros, or what another file left there, of the same length."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder), cipher, blob(1, 3000))
        other = Bench(Path(folder), cipher, blob(2, 3000)).whole
        start = data.draw(st.integers(0, len(bench.whole) - 1))
        end = data.draw(st.integers(start + 1, len(bench.whole)))
        filling = data.draw(st.sampled_from([bytes(len(other)), other, random.Random(3).randbytes(len(other))]))
        torn = bench.whole[:start] + filling[start:end] + bench.whole[end:]
        if torn not in (bench.whole, other):
            bench.refuses(torn)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.kv"
        for begin in (b"", PREFIX.pack(block_file.MAGIC, VERSION, len(data), len(data) + 64, PLAIN.key_id, bytes(16))):
            path.write_bytes(begin + data)
            with pytest.raises(BadBlockFile):
                read(path, PLAIN)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit the address space")
def test_a_length_is_not_believed_before_it_is_checked(tmp_path: Path) -> None:
    """With memory for nothing large, each is refused and not tried."""
    bench = Bench(tmp_path, PLAIN, blob())
    fields = list(PREFIX.unpack(bench.whole[: PREFIX.size]))
    rest = bench.whole[PREFIX.size :]
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with ExitStack() as restored:
        restored.callback(resource.setrlimit, resource.RLIMIT_AS, (soft, hard))
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 64 * 2**20, hard))
        for header_bytes in (2**32 - 1, MAX_HEADER_BYTES + 1, len(bench.whole) + 1):
            fields[2] = header_bytes
            assert bench.refuses(PREFIX.pack(*fields) + rest) is Flaw.CORRUPT
        for shape in ((2**40,), (2**63,) * 8):
            assert bench.refuses(forged(bench, arrays=[("uint8", shape)])) is Flaw.CORRUPT


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


# --- files that are sealed well, but hold what no writer of ours writes -----------------------------------


def forged(bench: Bench, **changes: object) -> bytes:
    """The bench's file with some of its header replaced, sealed as it should be."""
    bench.path.write_bytes(bench.whole)
    one = read(bench.path, bench.cipher)
    header = {
        "namespace": one.extent.namespace,
        "parent": one.extent.parent,
        "start": one.extent.start,
        "tokens": one.extent.tokens,
        "key": one.extent.key,
        "part": one.part,
        "first": one.first,
        "arrays": [(array.dtype, array.shape) for array in one.arrays],
    }
    assert header.keys() >= changes.keys()
    return sealed(bench, msgspec.msgpack.encode([*(header | changes).values()]), one.arrays[0].data)


def sealed(bench: Bench, encoded: bytes, payload: bytes | memoryview = b"") -> bytes:
    length = PREFIX.size + sealed_bytes(len(encoded)) + sealed_bytes(len(payload))
    prefix = PREFIX.pack(block_file.MAGIC, VERSION, len(encoded), length, bench.cipher.key_id, bytes(16))
    seal = bench.cipher.seal(prefix)
    with open(bench.path, "wb") as file:
        file.write(prefix)
        seal.write(file, memoryview(encoded))
        seal.write(file, memoryview(payload))
    return bench.path.read_bytes()


def test_a_forgery_differs_only_in_what_it_changes(tmp_path: Path) -> None:
    """Or the tests below would prove nothing."""
    bench = Bench(tmp_path, PLAIN, blob())
    bench.path.write_bytes(forged(bench))
    assert same(read(bench.path, PLAIN), blob())


FORGERIES: dict[str, Callable[[], dict[str, object]]] = {
    "no tokens": lambda: {"tokens": b"", "key": bytes(16)},
    "half a token": lambda: {"tokens": b"abcde", "key": extent(b"abcde").key},
    "other tokens": lambda: {"tokens": tokens_of(9, 40)},
    "another key": lambda: {"key": bytes(16)},
    "a short key": lambda: {"key": b"key"},
    "another parent": lambda: {"parent": bytes(16)},
    "begins inside a block": lambda: {"start": 1},
    "begins before the beginning": lambda: {"start": -BLOCK_TOKENS},
    "holds tokens behind its end": lambda: {"first": 41},
    "no such part": lambda: {"part": "crust"},
    "no such type": lambda: {"arrays": [("float128", (1,))]},
    "too many dimensions": lambda: {"arrays": [("uint8", (1,) * 9)]},
    "a negative dimension": lambda: {"arrays": [("uint8", (-1, -1000))]},
    "a shape that is none": lambda: {"arrays": [("uint8", "large")]},
    "fewer bytes than it says": lambda: {"arrays": [("uint8", (1001,))]},
    "no list of arrays": lambda: {"arrays": None},
}


@pytest.mark.parametrize("changes", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_wrong_header_is_refused_though_sealed(tmp_path: Path, changes: Callable[[], dict[str, object]]) -> None:
    bench = Bench(tmp_path, PLAIN, blob(nbytes=1000))
    forgery = forged(bench, **changes())
    assert bench.refuses(forgery) is Flaw.CORRUPT
    with pytest.raises(BadBlockFile):
        read_header(bench.path, PLAIN)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_sealed_header_is_refused(encoded: bytes) -> None:
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder), PLAIN, blob())
        assert bench.refuses(sealed(bench, encoded)) is Flaw.CORRUPT


# --- files of others -------------------------------------------------------------------------------------


def test_another_version_is_called_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, PLAIN, blob())
    fields = list(PREFIX.unpack(bench.whole[: PREFIX.size]))
    fields[1] = VERSION + 1
    assert bench.refuses(PREFIX.pack(*fields) + bench.whole[PREFIX.size :]) is Flaw.FOREIGN_VERSION


@pytest.mark.parametrize(
    ("writer", "reader"), [(PLAIN, ENCRYPTING), (ENCRYPTING, PLAIN), (ENCRYPTING, Cipher(bytes(32)[1:] + b"k"))]
)
def test_what_another_key_sealed_is_foreign(tmp_path: Path, writer: Cipher, reader: Cipher) -> None:
    write(tmp_path / "a.kv", blob(), writer, LAST_USED_NS)
    for look in (read, read_header):
        with pytest.raises(BadBlockFile) as raised:
            look(tmp_path / "a.kv", reader)
        assert raised.value.flaw is Flaw.FOREIGN_KEY


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "a.kv", blob(), PLAIN, LAST_USED_NS)
    (tmp_path / "link.kv").symlink_to(tmp_path / "a.kv")
    with pytest.raises(OSError, match="link"):
        read(tmp_path / "link.kv", PLAIN)
    os.mkfifo(tmp_path / "pipe.kv")
    with pytest.raises(BadBlockFile):
        read(tmp_path / "pipe.kv", PLAIN)


# --- writing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        replace(blob(), arrays=[StoredArray("float32", (3,), bytes(11))]),
        replace(blob(), arrays=[StoredArray("uint8", (1,) * 9, bytes(1))]),
        replace(blob(), extent=replace(blob().extent, key=bytes(16))),
        replace(blob(), first=41),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path: Path, wrong: Blob) -> None:
    with pytest.raises(ValueError, match=r"."):
        write(tmp_path / "a.kv", wrong, PLAIN, LAST_USED_NS)
    assert not list(tmp_path.iterdir())


def test_a_leftover_of_a_killed_write_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED_NAME).write_bytes(b"half a file")
    write(tmp_path / "a.kv", blob(), PLAIN, LAST_USED_NS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.kv"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """The kernel refuses to make a file longer than 1 MiB, in the middle of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write(tmp_path / "a.kv", blob(nbytes=3 * 2**20), PLAIN, LAST_USED_NS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
