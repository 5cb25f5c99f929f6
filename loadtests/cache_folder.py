"""Where a gateway under test keeps its prefixes: a folder of its own, so that no figure depends on an earlier run."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def empty_cache_folder(store: Path) -> Iterator[Path]:
    """A new folder on the disk of `store`, where a gateway would keep them too; it is removed in the end."""
    parent = store / "benchmark"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prefixes-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def kept_in(folder: Path) -> dict[str, str]:
    """The settings of a gateway that keeps its prefixes there, however little space is left on that disk, and that
    knows of no other run."""
    return {
        "MLX_GATEWAY_CACHE_DIRECTORY": str(folder),
        "MLX_GATEWAY_CACHE_DISK_FREE_BYTES": "0",
        "MLX_GATEWAY_POOL_RESTORE": "false",
        "MLX_GATEWAY_POOL_SERVE_STORED": "false",
        "MLX_GATEWAY_POOL_PRELOAD": "false",
    }
