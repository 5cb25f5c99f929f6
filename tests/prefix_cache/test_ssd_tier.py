"""The files of a folder: within the limit at all times, exactly what was written or gone, and there after a restart."""

import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.prefix_cache import block_file
from gateway.prefix_cache.block_file import SUFFIX, UNFINISHED_NAME, VERSION, Flaw, file_bytes
from gateway.prefix_cache.cipher import Cipher
from gateway.prefix_cache.extent import Blob, BlobKey
from gateway.prefix_cache.ssd_tier import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, FolderInUse, SsdTier
from tests.prefix_cache.blobs import NAMESPACE, OTHER_NAMESPACE, blob, is_right, same, sequence

PLENTY = 2**30
SECRET = Cipher(bytes(range(32)))
SIZE = file_bytes(blob(nbytes=10_000))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def opened(
    folder: Path,
    limit_bytes: int = PLENTY,
    *,
    free_floor_bytes: int = 0,
    cipher: Cipher | None = None,
    clock: Clock | None = None,
) -> Iterator[SsdTier]:
    tier = SsdTier(folder, limit_bytes, free_floor_bytes, cipher or Cipher(), clock or Clock())
    try:
        yield tier
    finally:
        tier.close()


def files_in(folder: Path) -> dict[str, int]:
    """Of blobs, whole or not."""
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix in (SUFFIX, ".temp")}


def store_all(tier: SsdTier, blobs: list[Blob]) -> None:
    for one in blobs:
        assert tier.store(one)[0]


def left_of(tier: SsdTier, blobs: list[Blob]) -> list[int]:
    return [number for number, one in enumerate(blobs) if one.key in tier]


# --- keeping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", [Cipher(), SECRET])
def test_what_was_stored_is_there_after_a_restart(tmp_path: Path, cipher: Cipher) -> None:
    blobs = [blob(number, 5000 * number) for number in range(5)]
    for _ in range(2):
        with opened(tmp_path / "new" / "folder", cipher=cipher) as tier:
            store_all(tier, blobs)
            assert all(same(one, tier.load(one.key) or blob(99)) for one in blobs)
            assert tier.nbytes == sum(files_in(tmp_path / "new" / "folder").values())
            assert not tier.removed


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    with opened(folder) as tier:
        tier.store(blob())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_storing_twice_writes_once(tmp_path: Path) -> None:
    with opened(tmp_path) as tier:
        assert tier.store(blob()) == (True, [])
        assert tier.store(blob()) == (True, [])
        assert (tier.written, len(tier), tier.nbytes) == (1, 1, file_bytes(blob()))


def test_a_models_blobs_can_be_listed_without_their_payload(tmp_path: Path) -> None:
    with opened(tmp_path) as tier:
        store_all(tier, [blob(1, 2000), blob(2, 3000), blob(3, 10, namespace=OTHER_NAMESPACE)])
    with opened(tmp_path) as tier:
        listed = sorted((header.nbytes, header.extent) for header, _ in tier.headers_of(NAMESPACE))
        assert listed == [(2000, blob(1).extent), (3000, blob(2).extent)]
        assert list(tier.headers_of(b"unknown")) == []


def test_a_namespace_can_be_removed_and_all(tmp_path: Path) -> None:
    mine, others = blob(1), blob(2, namespace=OTHER_NAMESPACE)
    with opened(tmp_path) as tier:
        store_all(tier, [mine, others])
        assert tier.remove(NAMESPACE) == [mine.key]
        assert (mine.key in tier, others.key in tier) == (False, True)
        assert tier.remove(None) == [others.key]
        assert (tier.nbytes, files_in(tmp_path)) == (0, {})


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """The second would take the first one's unfinished file for a leftover."""
    with opened(tmp_path), pytest.raises(FolderInUse, match=str(tmp_path)), opened(tmp_path):
        pass
    with opened(tmp_path) as tier:
        assert tier.store(blob())[0]


# --- the limit -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    limit_bytes=st.integers(0, 60_000),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["store", "store", "store", "touch", "load", "restart"]),
            st.integers(0, 12),
            st.integers(0, 25_000),
        ),
        max_size=40,
    ),
)
def test_the_limit_is_kept_whatever_happens(limit_bytes: int, steps: list[tuple[str, int, int]]) -> None:
    blobs: dict[int, Blob] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        tier = SsdTier(folder, limit_bytes, 0, Cipher())
        for act, seed, nbytes in steps:
            one = blobs.setdefault(seed, blob(seed, nbytes))
            if act == "store":
                there, evicted = tier.store(one)
                assert there == (one.key in tier) == (file_bytes(one) <= limit_bytes)
                assert not any(key in tier for key in evicted)
            elif act == "touch":
                tier.touch([one.key])
            elif act == "load":
                known = one.key in tier
                found = tier.load(one.key)
                assert (found is not None) == known
                assert found is None or same(found, one)
            else:
                before = len(tier)
                tier.close()
                tier = SsdTier(folder, limit_bytes, 0, Cipher())
                assert len(tier) == before
            assert sum(files_in(folder).values()) == tier.nbytes <= limit_bytes
        assert not tier.removed
        tier.close()


@contextmanager
def small_disk(folder: Path, nbytes: int) -> Iterator[Path]:
    """A real file system of so many bytes."""
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", folder], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("only root may mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_the_limit_holds_while_a_file_is_written(tmp_path: Path) -> None:
    """On a disk with not a page more than the limit and the pages that files begin, no write is ever refused."""
    page = resource.getpagesize()
    limit_bytes, files = 64 * page, 64 * page // file_bytes(blob(nbytes=3 * page)) + 2
    with small_disk(tmp_path / "disk", limit_bytes + files * page) as disk, opened(disk, limit_bytes) as tier:
        store_all(tier, [blob(number, 3 * page + 1000 * (number % 7)) for number in range(60)])
        assert tier.evicted
        assert not tier.paused


def test_a_limit_that_was_lowered_is_applied_at_the_next_start(tmp_path: Path) -> None:
    blobs = [blob(number, 10_000) for number in range(6)]
    with opened(tmp_path) as tier:
        store_all(tier, blobs)
    with opened(tmp_path, 2 * SIZE) as tier:
        assert tier.nbytes == sum(files_in(tmp_path).values()) <= 2 * SIZE
        assert left_of(tier, blobs)[-1] == 5


def test_a_blob_larger_than_the_limit_drives_nobody_out(tmp_path: Path) -> None:
    with opened(tmp_path, 3 * SIZE) as tier:
        store_all(tier, [blob(1, 10_000), blob(2, 10_000)])
        assert tier.store(blob(3, 40_000)) == (False, [])
        assert len(tier) == 2


# --- who goes first --------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first_also_after_a_restart(tmp_path: Path) -> None:
    blobs = [blob(number, 10_000) for number in range(4)]
    with opened(tmp_path, 4 * SIZE) as tier:
        store_all(tier, blobs)
        tier.touch([blobs[0].key])
    with opened(tmp_path, 4 * SIZE) as tier:
        _, evicted = tier.store(blob(5, 10_000))
        assert evicted[0] == blobs[1].key
        assert blobs[0].key in tier


def test_of_those_used_together_the_end_goes_first(tmp_path: Path) -> None:
    blobs = sequence(1, 5, 10_000)
    for _ in range(2):
        with opened(tmp_path, 5 * file_bytes(blobs[0]) + 500) as tier:
            store_all(tier, blobs)
            tier.touch([one.key for one in blobs])
    with opened(tmp_path, 5 * file_bytes(blobs[0]) + 500) as tier:
        tier.store(blob(9, 10_000))
        left = left_of(tier, blobs)
        assert left == list(range(len(left)))
        assert len(left) < 5


# --- a full disk -----------------------------------------------------------------------------------------


def test_nothing_is_written_below_the_floor(tmp_path: Path) -> None:
    with opened(tmp_path) as tier:
        tier.store(blob(1))
    with opened(tmp_path, free_floor_bytes=2**60) as tier:
        assert tier.store(blob(2)) == (False, [])
        assert left_of(tier, [blob(1), blob(2)]) == [0], "removing it would not have helped"
        assert tier.load(blob(1).key)


def test_own_files_make_room_above_the_floor(tmp_path: Path) -> None:
    blobs = [blob(number, 300_000) for number in range(8)]
    with small_disk(tmp_path / "disk", 2**20) as disk, opened(disk, free_floor_bytes=2**18) as tier:
        for one in blobs:
            assert tier.store(one)[0]
            assert shutil.disk_usage(disk).free >= 2**18
        assert tier.evicted


@contextmanager
def no_file_longer_than(nbytes: int) -> Iterator[None]:
    """The kernel refuses it, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_after_a_refused_write_the_disk_is_left_alone_for_a_while(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock=clock) as tier:
        tier.store(blob(1))
        seconds = FIRST_PAUSE_SECONDS
        for _ in range(7):
            with no_file_longer_than(2**20):
                assert tier.store(blob(2, 2**21)) == (False, [])
            assert tier.paused
            assert list(files_in(tmp_path).values()) == [file_bytes(blob(1))]
            assert is_right(tier.load(blob(1).key) or blob(99)), "what is there can be read"
            clock.now += seconds - 0.001
            assert tier.store(blob(3)) == (False, []), "not yet"
            clock.now += 0.001
            assert not tier.paused
            seconds = min(2 * seconds, LONGEST_PAUSE_SECONDS)
        assert seconds == LONGEST_PAUSE_SECONDS
        assert tier.store(blob(2, 2**21))[0]
        with no_file_longer_than(2**20):
            tier.store(blob(4, 2**21))
        clock.now += FIRST_PAUSE_SECONDS
        assert not tier.paused, "a write that went well begins anew"


def test_a_disk_that_is_full_with_others_files(tmp_path: Path) -> None:
    """Nobody told the tier of a floor: the kernel does, in the middle of a write."""
    with small_disk(tmp_path / "disk", 2**20) as disk, opened(disk, free_floor_bytes=-(2**30)) as tier:
        tier.store(blob(1))
        (tmp_path / "disk" / "others").mkdir()
        (tmp_path / "disk" / "others" / "file").write_bytes(bytes(2**19))
        assert tier.store(blob(2, 700_000)) == (False, [])
        assert tier.paused
        assert list(files_in(disk).values()) == [file_bytes(blob(1))]
        assert tier.load(blob(1).key)


# --- files of no use -------------------------------------------------------------------------------------


def path_of(folder: Path, key: BlobKey, cipher: Cipher | None = None) -> Path:
    return folder / f"{(cipher or Cipher()).file_name(key)}{SUFFIX}"


def spoil(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_spoiled_payload_is_found_when_it_is_read(tmp_path: Path) -> None:
    with opened(tmp_path) as tier:
        store_all(tier, [blob(1), blob(2)])
        spoil(path_of(tmp_path, blob(1).key), -1)
        assert tier.load(blob(1).key) is None
        assert tier.load(blob(2).key) is not None
        assert tier.removed == {Flaw.CORRUPT: 1}
        assert tier.nbytes == sum(files_in(tmp_path).values()) == file_bytes(blob(2))
        assert tier.store(blob(1))[0]
        assert is_right(tier.load(blob(1).key) or blob(99))


def test_a_file_that_vanished_is_no_surprise(tmp_path: Path) -> None:
    with opened(tmp_path) as tier:
        store_all(tier, [blob(1), blob(2), blob(3)])
        path_of(tmp_path, blob(1).key).unlink()
        path_of(tmp_path, blob(2).key).unlink()
        assert tier.load(blob(1).key) is None
        assert [header.key for header, _ in tier.headers_of(NAMESPACE)] == [blob(3).key]
        assert tier.removed == {Flaw.MISSING: 2}
        path_of(tmp_path, blob(3).key).unlink()
        assert tier.remove(None) == [blob(3).key]
        assert tier.nbytes == 0


def test_a_file_that_holds_another_blob_is_removed(tmp_path: Path) -> None:
    with opened(tmp_path) as tier:
        store_all(tier, [blob(1), blob(2)])
        shutil.copy(path_of(tmp_path, blob(1).key), path_of(tmp_path, blob(2).key))
        assert tier.load(blob(2).key) is None
        assert tier.removed == {Flaw.MISPLACED: 1}
    shutil.copy(path_of(tmp_path, blob(1).key), path_of(tmp_path, blob(2).key))
    with opened(tmp_path) as tier:
        assert left_of(tier, [blob(1), blob(2)]) == [0]
        assert tier.removed == {Flaw.MISPLACED: 1}


def test_what_is_of_no_use_is_removed_and_counted_at_the_start(tmp_path: Path) -> None:
    blobs = [blob(number) for number in range(5)]
    with opened(tmp_path) as tier:
        store_all(tier, blobs)
    paths = [path_of(tmp_path, one.key) for one in blobs]
    spoil(paths[0], 70)
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    content = bytearray(paths[2].read_bytes())
    content[8:12] = (VERSION + 1).to_bytes(4, "little")
    paths[2].write_bytes(content)
    block_file.write(paths[3], blobs[3], SECRET, 0)
    (tmp_path / UNFINISHED_NAME).write_bytes(b"half of one")
    with opened(tmp_path) as tier:
        assert left_of(tier, blobs) == [4]
        assert tier.removed == {
            Flaw.CORRUPT: 1,
            Flaw.TRUNCATED: 1,
            Flaw.FOREIGN_VERSION: 1,
            Flaw.FOREIGN_KEY: 1,
            Flaw.UNFINISHED: 1,
        }
        assert files_in(tmp_path) == {paths[4].name: file_bytes(blobs[4])}


@pytest.mark.parametrize(("before", "after"), [(Cipher(), SECRET), (SECRET, Cipher())])
def test_files_of_another_key_make_way(tmp_path: Path, before: Cipher, after: Cipher) -> None:
    with opened(tmp_path, cipher=before) as tier:
        store_all(tier, [blob(1), blob(2)])
    with opened(tmp_path, cipher=after) as tier:
        assert (len(tier), tier.nbytes, files_in(tmp_path)) == (0, 0, {})
        assert tier.removed == {Flaw.FOREIGN_KEY: 2}
