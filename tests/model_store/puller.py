"""Pulls `org/model` from a hub on loopback, slowly. Run with the store's folder and the hub's URL."""

import sys
from pathlib import Path

from gateway.config import DownloadsConfig
from gateway.model_store.download import Download
from gateway.model_store.hub import Hub
from gateway.model_store.store_folders import StoreFolders


def main(root: Path, endpoint: str) -> None:
    config = DownloadsConfig(endpoint=endpoint, disk_free_bytes=0, bytes_per_second=8_000_000)
    Download(StoreFolders(root), Hub(config, retry_seconds=0.01), "org/model").run(lambda _fraction, _doing: None)


main(Path(sys.argv[1]), sys.argv[2])
