"""The prefix caches of all models of the process: one limit in memory, one folder on disk.

Built and stopped by whoever starts the process. All else happens on the MLX thread, to which the disk's thread hands
what it has to tell; nothing here imports mlx before that thread does.
"""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import wait
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from gateway.config import Config
from gateway.generation.adapter import BASE, adapter_id
from gateway.observability.engine_state import PrefixUse
from gateway.prefix_cache.cached_extent import Tier
from gateway.prefix_cache.cipher import Cipher, key_from_file
from gateway.prefix_cache.extent import Blob, BlobKey
from gateway.prefix_cache.ssd_thread import SsdStatistics, SsdThread
from gateway.prefix_cache.ssd_tier import SsdTier

if TYPE_CHECKING:  # they import mlx, which only the MLX thread may do at run time
    from gateway.prefix_cache.prefix_cache import PrefixCache
    from gateway.prefix_cache.ram_tier import RamTier
    from gateway.prefix_cache.restore import Needs

log = logging.getLogger(__name__)

RAM_SHARE = 4
"""Without a limit of its own, memory holds one part in so many of the whole budget."""

WRITE_QUEUE_BYTES = 512 * 2**20
"""What may wait to be written; more is not written. It is memory beside `cache.ram_bytes`."""

INDEX_SECONDS = 30.0
POLL_SECONDS = 0.05
FILES_IN_A_SLICE = 500

OWNER = "prefix_cache"
"""In the memory ledger."""


class Ledger(Protocol):
    """What is asked of the process's memory ledger."""

    budget_bytes: int

    @property
    def free_bytes(self) -> int: ...

    def held_by(self, owner: str) -> int: ...

    def hold(self, owner: str, held_bytes: int) -> None: ...

    def let_give_up(self, owner: str, give_up: Callable[[int], None]) -> None: ...


class ModelCache(Struct, frozen=True):
    """What is kept of one model. `sessions` are bytes in memory by the session that used them last."""

    id: str
    extents: int
    ram_bytes: int
    disk_bytes: int
    sessions: dict[str, int]


class RamUse(Struct, frozen=True):
    bytes: int = 0
    limit_bytes: int = 0
    evicted: int = 0


class CacheUse(Struct, frozen=True):
    """`disk` is None where nothing is written."""

    models: list[ModelCache]
    ram: RamUse
    disk: SsdStatistics | None


class PrefixCaches:
    """`post` runs a function on the MLX thread, soon."""

    def __init__(self, config: Config, post: Callable[[Callable[[], None]], None]) -> None:
        """Raises `ConfigError` if prefixes shall be encrypted and the key cannot be had."""
        self._config = config.cache
        self._post = post
        self._ram: RamTier | None = None
        self._squeezed = False
        self._open: dict[str, PrefixCache] = {}
        self._names: dict[str, set[str]] = {}  # under which a model and its adapters have caches
        self._disk = self._start_disk(config) if self._config.enabled and self._config.disk_bytes else None

    @property
    def models(self) -> list[str]:
        """Whose caches are open."""
        return sorted(self._open)

    def open(
        self, model_id: str, namespace: bytes, needs: "Needs", ledger: Ledger, adapter: str = BASE
    ) -> "PrefixCache | None":
        """A model's cache, or that of one of its adapters, in place of the one it had before; None if nothing shall be
        kept."""
        from gateway.prefix_cache.prefix_cache import PrefixCache

        name = adapter_id(model_id, adapter)
        self._close(name)
        if not self._config.enabled:
            return None
        ram = self._ram_tier(ledger)
        cache = PrefixCache(namespace, needs, ram, self._disk)
        ram.add_owner(cache)
        self._open[name] = cache
        self._names.setdefault(model_id, set()).add(name)
        return cache

    def find_on_disk(self, model_id: str) -> Generator[float, float | None, None]:
        """Tells the caches of a model and its adapters what an earlier run left, so that who asks next finds it. Waits
        for the disk.

        The engine's `Slices`: it yields wherever others may have a turn, and is sent None where nobody wants one.
        """
        for name in sorted(self._names.get(model_id, ())):
            if self._disk:
                yield from self._index(self._open[name], self._disk)

    def _index(self, cache: "PrefixCache", disk: SsdThread) -> Generator[float, float | None, None]:
        headers = disk.headers_of(cache.namespace)
        deadline = time.monotonic() + INDEX_SECONDS
        while not headers.done():
            if time.monotonic() > deadline:
                log.warning(
                    "the disk did not tell within %.0f s which prefixes there are; none are used", INDEX_SECONDS
                )
                return
            if (yield 1.0) is None:
                wait([headers], timeout=POLL_SECONDS)
        for count, (header, nbytes) in enumerate(headers.result(), start=1):
            cache.found_on_disk(header.extent, header.part, header.first, nbytes)
            if count % FILES_IN_A_SLICE == 0:
                yield 1.0

    def close(self, model_id: str) -> None:
        """Gives up what memory has of a model and its adapters; what is on disk stays. Nothing happens if there is
        none."""
        for name in self._names.pop(model_id, ()):
            self._close(name)

    def _close(self, name: str) -> None:
        if cache := self._open.pop(name, None):
            cache.clear_ram()
            assert self._ram
            self._ram.remove_owner(cache)

    def clear(self, model_id: str | None) -> int:
        """Forgets all, or all of one open model, in memory and on disk. Returns the bytes given up in memory."""
        before = self._ram.nbytes if self._ram else 0
        for name, cache in self._open.items():
            if model_id in (None, name):
                cache.clear_ram()
                if self._disk and model_id:
                    self._disk.remove(cache.namespace)
        if self._disk and not model_id:
            self._disk.remove(None)
        return before - (self._ram.nbytes if self._ram else 0)

    def squeeze(self, *, squeezed: bool) -> int:
        """Memory keeps half of what it may, from now on or no longer. What leaves it stays on disk.

        Returns the bytes given up.
        """
        self._squeezed = squeezed
        if not self._ram or not squeezed:
            return 0
        before = self._ram.nbytes
        self._ram.give_up(before - self._ram.room_bytes)
        return before - self._ram.nbytes

    def describe(self) -> CacheUse:
        models = [
            ModelCache(
                name,
                len(cache.tree),
                cache.tree.nbytes(Tier.RAM),
                cache.tree.nbytes(Tier.SSD),
                dict(cache.tree.bytes_by_session(Tier.RAM)),
            )
            for name, cache in self._open.items()
        ]
        ram = RamUse(self._ram.nbytes, self._ram.room_bytes, self._ram.evicted) if self._ram else RamUse()
        return CacheUse(models, ram, self._disk.statistics() if self._disk else None)

    def use(self) -> PrefixUse:
        """For metrics."""
        ram, disk = self._ram, self._disk.statistics() if self._disk else SsdStatistics()
        return PrefixUse(
            ram_bytes=ram.nbytes if ram else 0,
            ram_limit_bytes=ram.room_bytes if ram else 0,
            ram_evicted=ram.evicted if ram else 0,
            disk_bytes=disk.bytes,
            disk_limit_bytes=disk.limit_bytes,
            disk_evicted=disk.evicted,
            disk_written=disk.written,
            disk_dropped=disk.dropped,
            disk_read_seconds=disk.read_seconds,
            disk_write_seconds=disk.write_seconds,
            removed_files=disk.removed,
        )

    def stop(self) -> None:
        """Finishes what waits to be written; the MLX thread must have ended. Blocks for some seconds at most."""
        if self._disk:
            self._disk.stop()

    # --- told by the disk, on its thread ----------------------------------------------------------------

    def written(self, blob: Blob, nbytes: int) -> None:
        def note() -> None:
            for cache in self._open.values():
                if cache.namespace == blob.extent.namespace:
                    cache.found_on_disk(blob.extent, blob.part, blob.first, nbytes)

        self._post(note)

    def gone(self, keys: Sequence[BlobKey]) -> None:
        def note() -> None:
            for cache in self._open.values():
                for key in keys:
                    cache.gone_from_disk(key)

        self._post(note)

    def was_read(self, key: BlobKey, blob: Blob | None) -> None:
        def note() -> None:
            for cache in self._open.values():
                cache.was_read(key, blob)

        self._post(note)

    # --- inside -----------------------------------------------------------------------------------------

    def _start_disk(self, config: Config) -> SsdThread:
        cipher = Cipher(key_from_file(config.cache_key_file)) if self._config.encrypt else Cipher()

        def open_tier() -> SsdTier:
            return SsdTier(config.cache_directory, self._config.disk_bytes, self._config.disk_free_bytes, cipher)

        return SsdThread(open_tier, WRITE_QUEUE_BYTES, self)

    def _ram_tier(self, ledger: Ledger) -> "RamTier":
        from gateway.prefix_cache.ram_tier import RamTier

        if self._ram is None:
            limit = self._config.ram_bytes or ledger.budget_bytes // RAM_SHARE
            self._ram = RamTier(
                lambda: min(limit // 2 if self._squeezed else limit, ledger.free_bytes + ledger.held_by(OWNER)),
                lambda held: ledger.hold(OWNER, held),
            )
            ledger.let_give_up(OWNER, self._ram.give_up)
        return self._ram
