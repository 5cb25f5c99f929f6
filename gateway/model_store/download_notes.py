"""Which downloads a server has accepted and not ended: one small file each, in `downloads/` of the store."""

import logging
from contextlib import suppress
from pathlib import Path

import msgspec

from gateway.model_store.sources import HubSource
from gateway.model_store.store_folders import disk_errors_explained

log = logging.getLogger(__name__)


class DownloadNote(msgspec.Struct, frozen=True):
    repo_id: str
    revision: str | None
    trusted: bool


class DownloadNotes:
    """Of the store under `root`."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "downloads"

    def write(self, download_id: str, source: HubSource, trusted: bool) -> None:
        """Raises ModelStoreError if the disk does not take it."""
        note = msgspec.json.encode(DownloadNote(source.repo_id, source.revision, trusted))
        with disk_errors_explained(self._folder):
            self._folder.mkdir(exist_ok=True)
            temporary = self._folder / f".{download_id}"
            temporary.write_bytes(note)
            temporary.rename(self._folder / f"{download_id}.json")

    def remove(self, download_id: str) -> None:
        """One that cannot be removed is downloaded again at the next start, which finds it complete."""
        with suppress(OSError):
            (self._folder / f"{download_id}.json").unlink(missing_ok=True)

    def read(self) -> dict[str, DownloadNote]:
        """By their ids; what is no note is passed over."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                found[path.stem] = msgspec.json.decode(path.read_bytes(), type=DownloadNote)
            except (OSError, msgspec.DecodeError) as error:
                log.warning("%s is no note of a download: %s", path, error)
        return found
