"""Memory pressure makes the prefix cache's memory smaller, and its end makes it as large as before."""

from collections.abc import Callable
from pathlib import Path

from gateway.config import CacheConfig, Config, StoreConfig
from gateway.engine.memory_ledger import MemoryLedger
from gateway.prefix_cache.prefix_caches import PrefixCaches


def test_half_while_squeezed(tmp_path: Path) -> None:
    def at_once(function: Callable[[], None]) -> None:
        function()

    config = Config(cache=CacheConfig(ram_bytes=1000, disk_bytes=0), store=StoreConfig(str(tmp_path)))
    caches = PrefixCaches(config, at_once)
    assert caches.squeeze(squeezed=True) == 0, "no model has a cache yet"
    caches._ram_tier(MemoryLedger(10_000))
    assert caches.describe().ram.limit_bytes == 500
    caches.squeeze(squeezed=False)
    assert caches.describe().ram.limit_bytes == 1000
