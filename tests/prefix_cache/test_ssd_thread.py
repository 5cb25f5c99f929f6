"""The disk's own thread: nobody waits for it, every question is answered, and no more waits than may."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.prefix_cache.block_file import SUFFIX, file_bytes
from gateway.prefix_cache.cipher import Cipher
from gateway.prefix_cache.extent import Blob, BlobKey
from gateway.prefix_cache.ssd_thread import SsdThread
from gateway.prefix_cache.ssd_tier import SsdTier
from tests.prefix_cache.blobs import NAMESPACE, OTHER_NAMESPACE, blob, is_right

PLENTY = 2**30
SECONDS = 30.0
UNKNOWN = blob(12345).key


class Listener:
    """Notes what it is told; `hold` keeps the disk's thread waiting in a call until it is let go."""

    def __init__(self) -> None:
        self.told: queue.Queue[tuple[str, object]] = queue.Queue()
        self.threads: set[str] = set()
        self._go_on = threading.Event()
        self._holding = threading.Event()
        self._holds: BlobKey | None = None

    def written(self, blob: Blob, nbytes: int) -> None:
        self._tell("written", blob.key)

    def gone(self, keys: Sequence[BlobKey]) -> None:
        self._tell("gone", list(keys))

    def was_read(self, key: BlobKey, blob: Blob | None) -> None:
        if key == self._holds:
            self._holding.set()
            assert self._go_on.wait(SECONDS)
        self._tell("was_read", (key, blob))

    @contextmanager
    def hold(self, thread: SsdThread) -> Iterator[None]:
        self._holds = UNKNOWN
        thread.read([UNKNOWN])
        assert self._holding.wait(SECONDS)
        yield
        self._go_on.set()
        assert self.next() == ("was_read", (UNKNOWN, None))

    def next(self) -> tuple[str, object]:
        return self.told.get(timeout=SECONDS)

    def _tell(self, what: str, detail: object) -> None:
        self.threads.add(threading.current_thread().name)
        self.told.put((what, detail))


@contextmanager
def running(
    folder: Path, limit_bytes: int = PLENTY, queue_bytes: int = PLENTY, open_tier: Callable[[], SsdTier] | None = None
) -> Iterator[tuple[SsdThread, Listener]]:
    listener = Listener()
    thread = SsdThread(open_tier or (lambda: SsdTier(folder, limit_bytes, 0, Cipher())), queue_bytes, listener)
    try:
        yield thread, listener
    finally:
        thread.stop()


def read_back(thread: SsdThread, listener: Listener, key: BlobKey) -> Blob | None:
    thread.read([key])
    what, detail = listener.next()
    assert what == "was_read"
    assert isinstance(detail, tuple)
    assert detail[0] == key
    found = detail[1]
    assert found is None or isinstance(found, Blob)
    return found


def test_what_is_stored_can_be_read_also_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as (thread, listener):
        others = blob(2, namespace=OTHER_NAMESPACE)
        for one in (blob(1), others):
            assert thread.store(one)
            assert listener.next() == ("written", one.key)
        assert is_right(read_back(thread, listener, blob(1).key) or blob(9, 1))
    with running(tmp_path) as (thread, listener):
        assert [header.extent for header, _ in thread.headers_of(NAMESPACE).result(SECONDS)] == [blob(1).extent]
        assert is_right(read_back(thread, listener, blob(1).key) or blob(9, 1))
        assert read_back(thread, listener, UNKNOWN) is None
        assert listener.threads == {"ssd-cache"}


def test_reads_go_before_writes(tmp_path: Path) -> None:
    with running(tmp_path) as (thread, listener):
        thread.store(blob(0))
        assert listener.next() == ("written", blob(0).key)
        with listener.hold(thread):
            for number in (1, 2):
                thread.store(blob(number))
            thread.read([blob(0).key])
        assert [listener.next()[0] for _ in range(3)] == ["was_read", "written", "written"]


def test_only_so_much_waits_to_be_written(tmp_path: Path) -> None:
    with running(tmp_path, queue_bytes=25_000) as (thread, listener):
        with listener.hold(thread):
            assert [thread.store(blob(number, 10_000)) for number in range(4)] == [True, True, False, False]
        assert [listener.next() for _ in range(2)] == [("written", blob(number, 10_000).key) for number in range(2)]
        assert thread.store(blob(2, 10_000)), "what was written waits no longer"
        assert listener.next() == ("written", blob(2, 10_000).key)
        thread.stop()
        statistics = thread.statistics()
        assert (statistics.written, statistics.dropped, statistics.waiting_bytes) == (3, 2, 0)
        assert statistics.bytes == 3 * file_bytes(blob(0, 10_000))


def test_what_made_room_is_told(tmp_path: Path) -> None:
    with running(tmp_path, limit_bytes=5 * file_bytes(blob(0)) // 2) as (thread, listener):
        for number in range(3):
            thread.store(blob(number))
        told = [listener.next() for _ in range(4)]
        assert ("gone", [blob(0).key]) in told
        assert told.index(("gone", [blob(0).key])) < told.index(("written", blob(2).key))


def test_a_namespace_is_removed_with_what_waits_to_be_written(tmp_path: Path) -> None:
    others = blob(3, namespace=OTHER_NAMESPACE)
    with running(tmp_path) as (thread, listener):
        thread.store(blob(1))
        assert listener.next() == ("written", blob(1).key)
        with listener.hold(thread):
            thread.store(blob(2))
            thread.store(others)
            thread.remove(NAMESPACE)
        assert listener.next() == ("gone", [blob(1).key])
        assert listener.next() == ("written", others.key)
        assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 1
        thread.remove(None)
        assert listener.next() == ("gone", [others.key])
        assert not list(tmp_path.glob(f"*{SUFFIX}"))


def test_use_survives_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as (thread, listener):
        for number in range(2):
            thread.store(blob(number))
            listener.next()
        thread.touch([blob(0).key])
    with running(tmp_path, limit_bytes=3 * file_bytes(blob(0)) // 2) as (thread, listener):
        assert [header.extent for header, _ in thread.headers_of(NAMESPACE).result(SECONDS)] == [blob(0).extent]


def test_a_command_that_fails_is_not_the_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = Blob(blob(1).extent, blob(1).part, 41, [])
    with running(tmp_path) as (thread, listener):
        thread.store(broken)
        thread.store(blob(2))
        assert listener.next() == ("written", blob(2).key)
        assert is_right(read_back(thread, listener, blob(2).key) or blob(9, 1))
    assert "the next one follows" in caplog.text


def test_what_waits_is_written_before_it_ends(tmp_path: Path) -> None:
    with running(tmp_path) as (thread, listener):
        with listener.hold(thread):
            for number in range(20):
                assert thread.store(blob(number))
        thread.stop()
        assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 20
        SsdTier(tmp_path, PLENTY, 0, Cipher()).close()


def test_after_its_end_nothing_is_taken_on_and_questions_are_answered(tmp_path: Path) -> None:
    with running(tmp_path) as (thread, listener):
        thread.stop()
        assert not thread.store(blob(1))
        assert read_back(thread, listener, blob(1).key) is None
        assert thread.headers_of(NAMESPACE).result(SECONDS) == []
        thread.touch([blob(1).key])
        thread.remove(None)


def test_a_folder_in_use_means_no_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    owner = SsdTier(tmp_path, PLENTY, 0, Cipher())
    with running(tmp_path) as (thread, listener):
        assert read_back(thread, listener, blob(1).key) is None
        assert thread.headers_of(NAMESPACE).result(SECONDS) == []
    owner.close()
    assert "in use by another process" in caplog.text
