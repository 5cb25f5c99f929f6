"""The prefix caches of all models of the process: one limit in memory, one folder on disk.

Built and stopped by whoever starts the process. All else happens on the MLX thread, to which the disk's thread hands
what it has to tell; nothing here imports mlx before that thread does.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from gateway.config import Config
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
        self._open: dict[str, PrefixCache] = {}
        self._disk = self._start_disk(config) if self._config.enabled and self._config.disk_bytes else None

    @property
    def models(self) -> list[str]:
        """Whose caches are open."""
        return sorted(self._open)

    def open(self, model_id: str, namespace: bytes, needs: "Needs", ledger: Ledger) -> "PrefixCache | None":
        """A model's cache, in place of the one it had before; None if nothing shall be kept."""
        from gateway.prefix_cache.prefix_cache import PrefixCache

        self.close(model_id)
        if not self._config.enabled:
            return None
        ram = self._ram_tier(ledger)
        cache = PrefixCache(namespace, needs, ram, self._disk)
        ram.add_owner(cache)
        self._open[model_id] = cache
        if self._disk:
            self._index(cache, self._disk)
        return cache

    def close(self, model_id: str) -> None:
        """Gives up what memory has of a model; what is on disk stays. Nothing happens if it has none."""
        if cache := self._open.pop(model_id, None):
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

    def _index(self, cache: "PrefixCache", disk: SsdThread) -> None:
        """Waits for the disk: who asks next shall find what an earlier run left."""
        try:
            for header, nbytes in disk.headers_of(cache.namespace).result(INDEX_SECONDS):
                cache.found_on_disk(header.extent, header.part, header.first, nbytes)
        except TimeoutError:
            log.warning("the disk did not tell within %.0f s which prefixes there are; none are used", INDEX_SECONDS)

    def _ram_tier(self, ledger: Ledger) -> "RamTier":
        from gateway.prefix_cache.ram_tier import RamTier

        if self._ram is None:
            limit = self._config.ram_bytes or ledger.budget_bytes // RAM_SHARE
            self._ram = RamTier(
                lambda: min(limit, ledger.free_bytes + ledger.held_by(OWNER)), lambda held: ledger.hold(OWNER, held)
            )
            ledger.let_give_up(OWNER, self._ram.give_up)
        return self._ram
