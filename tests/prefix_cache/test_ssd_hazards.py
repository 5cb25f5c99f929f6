"""What goes wrong around the folder: files of others, other processes, a clock set back, a lack of descriptors."""

import errno
import os
import resource
import stat
import threading
from pathlib import Path

from gateway.prefix_cache.block_file import SUFFIX, file_bytes
from gateway.prefix_cache.cipher import Cipher
from gateway.prefix_cache.extent import Blob
from gateway.prefix_cache.ssd_thread import OPEN_AGAIN_SECONDS, SsdThread
from gateway.prefix_cache.ssd_tier import FolderOfOthers, SsdTier
from tests.prefix_cache.blobs import NAMESPACE, blob, sequence
from tests.prefix_cache.test_ssd_thread import PLENTY, SECONDS, Listener, read_back, running
from tests.prefix_cache.test_ssd_tier import Clock, left_of, opened, store_all


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """`cache.directory` may name a folder that is not empty: somebody's documents."""
    (tmp_path / "thesis.tex").write_text("two years of work")
    (tmp_path / "folder").mkdir()
    tmp_path.chmod(0o755)
    try:
        SsdTier(tmp_path, PLENTY, 0, Cipher()).close()
    except (OSError, FolderOfOthers):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert (tmp_path / "thesis.tex").exists()


def test_a_sequence_leaves_from_its_end_though_its_beginning_was_written_first(tmp_path: Path) -> None:
    """Without its beginning nothing of it can be used."""
    blobs = sequence(1, 5, 10_000)
    with opened(tmp_path, 5 * file_bytes(blobs[0]) + 2000) as tier:
        store_all(tier, blobs)
        tier.store(blob(9, 10_000))
        left = left_of(tier, blobs)
        assert left == list(range(len(left)))
        assert left


def test_a_lack_of_descriptors_is_not_the_files_fault(tmp_path: Path) -> None:
    with opened(tmp_path) as tier:
        tier.store(blob(1))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            assert tier.load(blob(1).key) is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert tier.load(blob(1).key)


def test_a_question_asked_while_the_folder_could_not_be_opened_is_answered(tmp_path: Path) -> None:
    """Else the MLX thread waits for 30 s in `_index`."""
    asked = threading.Event()

    def open_tier() -> SsdTier:
        assert asked.wait(SECONDS)
        raise OSError(errno.EROFS, "Read-only file system")

    listener = Listener()
    thread = SsdThread(open_tier, PLENTY, listener)
    headers = thread.headers_of(NAMESPACE)
    thread.read([blob(1).key])
    asked.set()
    assert headers.result(5) == []
    assert listener.told.get(timeout=5) == ("was_read", (blob(1).key, None))


def test_a_folder_that_another_process_gives_up_is_used_from_then_on(tmp_path: Path) -> None:
    """A restart that overlaps with the end of the old process."""
    owner = SsdTier(tmp_path, PLENTY, 0, Cipher())
    clock = Clock()
    listener = Listener()
    thread = SsdThread(lambda: SsdTier(tmp_path, PLENTY, 0, Cipher()), PLENTY, listener, clock)
    assert read_back(thread, listener, blob(1).key) is None
    owner.close()
    clock.now += OPEN_AGAIN_SECONDS
    assert thread.store(blob(1))
    assert listener.next() == ("written", blob(1).key)
    thread.stop()


def test_blobs_without_arrays_are_bounded_too(tmp_path: Path) -> None:
    with running(tmp_path, queue_bytes=10_000) as (thread, listener), listener.hold(thread):
        taken = 0
        while taken < 1000 and thread.store(Blob(blob(taken).extent, blob(0).part, 0, [])):
            taken += 1
        assert taken < 1000


def test_the_index_hears_the_same_size_from_a_write_and_from_a_restart(tmp_path: Path) -> None:
    sizes = []

    class Sizes(Listener):
        def written(self, blob: Blob, nbytes: int) -> None:
            sizes.append(nbytes)
            super().written(blob, nbytes)

    listener = Sizes()
    thread = SsdThread(lambda: SsdTier(tmp_path, PLENTY, 0, Cipher()), PLENTY, listener)
    thread.store(blob(1))
    listener.next()
    sizes += [nbytes for _, nbytes in thread.headers_of(NAMESPACE).result(SECONDS)]
    thread.stop()
    assert sizes[0] == sizes[1]


def test_a_clock_that_was_set_back_does_not_make_the_newest_the_oldest(tmp_path: Path) -> None:
    with opened(tmp_path) as tier:
        store_all(tier, [blob(1, 10_000)])
    path = next(tmp_path.glob(f"*{SUFFIX}"))
    future = path.stat().st_mtime_ns + 10**15
    os.utime(path, ns=(future, future))
    with opened(tmp_path, 5 * file_bytes(blob(1, 10_000)) // 2) as tier:
        store_all(tier, [blob(2, 10_000), blob(3, 10_000)])
        assert left_of(tier, [blob(1), blob(2), blob(3)]) == [1, 2]
