"""The key's file, and what can be told from files without it."""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.prefix_cache.block_file import PREFIX, write
from gateway.prefix_cache.cipher import KEY_BYTES, SECTION_BYTES, Cipher, SealBroken, key_from_file, sealed_bytes
from gateway.prefix_cache.extent import BlobKey, Part
from tests.prefix_cache.blobs import blob

SECRET = Cipher(bytes(range(KEY_BYTES)))
PREFIX_BYTES = bytes(range(48))
CIPHERS = pytest.mark.parametrize("cipher", [Cipher(), SECRET])


def sealed(cipher: Cipher, *parts: bytes) -> bytes:
    file = BytesIO()
    seal = cipher.seal(PREFIX_BYTES)
    for part in parts:
        seal.write(file, memoryview(part))
    return file.getvalue()


def opened(cipher: Cipher, data: bytes, *lengths: int) -> list[bytes]:
    file = BytesIO(data)
    seal = cipher.seal(PREFIX_BYTES)
    targets = [bytearray(length) for length in lengths]
    for target in targets:
        seal.read_into(file, memoryview(target))
    return [bytes(target) for target in targets]


@given(st.lists(st.binary(max_size=50), max_size=5), st.sampled_from([Cipher(), SECRET]))
def test_sections_come_back(parts: list[bytes], cipher: Cipher) -> None:
    data = sealed(cipher, *parts)
    assert len(data) == sum(sealed_bytes(len(part)) for part in parts)
    assert opened(cipher, data, *map(len, parts)) == parts


@CIPHERS
def test_sections_cannot_change_places(cipher: Cipher) -> None:
    data = sealed(cipher, b"first", b"other")
    half = len(data) // 2
    with pytest.raises(SealBroken):
        opened(cipher, data[half:] + data[:half], 5, 5)


@CIPHERS
def test_pieces_of_a_long_section_cannot_change_places(cipher: Cipher) -> None:
    data = sealed(cipher, bytes(SECTION_BYTES) + bytes([1]) * SECTION_BYTES)
    half = len(data) // 2
    assert opened(cipher, data, 2 * SECTION_BYTES)
    with pytest.raises(SealBroken):
        opened(cipher, data[half:] + data[:half], 2 * SECTION_BYTES)


@CIPHERS
def test_sections_of_another_file_do_not_fit(cipher: Cipher) -> None:
    data = sealed(cipher, b"the same")
    target = bytearray(8)
    with pytest.raises(SealBroken):
        cipher.seal(bytes(48)).read_into(BytesIO(data), memoryview(target))


def test_nothing_of_the_tokens_or_the_payload_can_be_seen(tmp_path: Path) -> None:
    one = blob(nbytes=5000)
    write(tmp_path / "plain", one, Cipher(), 0)
    write(tmp_path / "secret", one, SECRET, 0)
    plain, secret = ((tmp_path / name).read_bytes() for name in ("plain", "secret"))
    for word in (one.extent.tokens[:16], one.extent.key, one.extent.namespace, bytes(one.arrays[0].data)[:16]):
        assert word in plain
        assert word not in secret


def test_the_same_blob_never_makes_the_same_file(tmp_path: Path) -> None:
    """One that did would tell that the same was asked again; and a nonce would have been used twice."""
    for name in ("one", "two"):
        write(tmp_path / name, blob(), SECRET, 0)
    one, two = ((tmp_path / name).read_bytes()[PREFIX.size :] for name in ("one", "two"))
    equal_bytes = sum(a == b for a, b in zip(one, two, strict=True))
    assert equal_bytes < len(one) / 16  # by chance 1 in 256 is


def test_names_differ_by_key_part_and_extent() -> None:
    keys = [BlobKey(extent, part) for extent in (bytes(16), bytes(15) + b"x") for part in Part]
    ciphers = (Cipher(), SECRET, Cipher(bytes(KEY_BYTES - 1) + b"x"))
    assert len({cipher.file_name(key) for cipher in ciphers for key in keys}) == len(keys) * len(ciphers)


# --- the key's file --------------------------------------------------------------------------------------


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "key"
    before = os.umask(0)
    try:
        key = key_from_file(path)
    finally:
        os.umask(before)
    assert len(key) == KEY_BYTES
    assert key_from_file(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["key"]


def test_two_keys_are_not_alike(tmp_path: Path) -> None:
    assert key_from_file(tmp_path / "one") != key_from_file(tmp_path / "two")


def test_all_who_make_it_at_once_get_the_same(tmp_path: Path) -> None:
    ready = threading.Barrier(8)

    def make(_: int) -> bytes:
        ready.wait()
        return key_from_file(tmp_path / "key")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    key_from_file(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o}"):
        key_from_file(tmp_path / "key")


@pytest.mark.parametrize("length", [0, KEY_BYTES - 1, KEY_BYTES + 1])
def test_a_key_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "key").write_bytes(bytes(length))
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigError, match=rf"{length} bytes"):
        key_from_file(tmp_path / "key")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "file" / "key"):
        with pytest.raises(ConfigError, match=str(path)):
            key_from_file(path)
