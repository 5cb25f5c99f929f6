"""Fetches one file of a repository, however often the connection is lost, and takes nothing but what was announced."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gateway.errors import ModelStoreError
from gateway.model_store.checksums import git_sha1_of_file, sha256_of_file
from gateway.model_store.hub import AnnouncedFile, Hub, Repository
from gateway.model_store.manifest import StoredFile

PART = ".part"
"""Ends the name of a file that has not arrived in full."""

MOST_FAILURES = 6
"""In a row, without one byte in between: then the hub is given up."""

BROKEN_AGAIN = 2
"""Times that a file may arrive in full with other bytes than were announced."""

RETRIED_STATUS = (408, 416, 429, 500, 502, 503, 504)
BYTES_BETWEEN_CHECKS = 32 << 20  # of the space that is left on the disk
BYTES_BETWEEN_REPORTS = 1 << 20
SECONDS_BETWEEN_REPORTS = 0.25

Progress = Callable[[int], None]
"""Told how much of the file is there, in bytes. What it raises stops the work, and what has arrived is kept."""


def fetch_file(hub: Hub, repository: Repository, name: str, folder: Path, progress: Progress) -> StoredFile:
    """Have the file in `folder`, whole and as announced; goes on where an earlier call was stopped or killed.

    Raises ModelStoreError when the bytes are wrong or the disk is too small, and what the HTTP client raises when the
    hub stays out of reach.
    """
    announced = repository.files[name]
    whole = folder / name
    whole.parent.mkdir(parents=True, exist_ok=True)
    part = whole.with_name(whole.name + PART)
    if whole.exists() and (checked := _checked(whole, announced)):
        part.unlink(missing_ok=True)
        progress(announced.size_bytes)
        return checked
    whole.unlink(missing_ok=True)
    for _ in range(BROKEN_AGAIN):
        _fetch_all(hub, repository, name, part, progress)
        if checked := _checked(part, announced):
            part.rename(whole)
            progress(announced.size_bytes)
            return checked
        part.unlink()
    raise ModelStoreError(
        f"{repository.repo_id}: {name} did not arrive as the hub announced it, {BROKEN_AGAIN} times, and was removed. "
        "Try again later, or from another mirror."
    )


def _checked(file: Path, announced: AnnouncedFile) -> StoredFile | None:
    """What the file is, if it is what was announced; reads all of it."""
    size_bytes = file.stat().st_size
    if size_bytes != announced.size_bytes:
        return None
    sha256 = sha256_of_file(file)
    if announced.sha256:
        return StoredFile(size_bytes, sha256, "sha256") if sha256 == announced.sha256 else None
    if announced.git_sha1:
        return StoredFile(size_bytes, sha256, "git-sha1") if git_sha1_of_file(file) == announced.git_sha1 else None
    return StoredFile(size_bytes, sha256)


def _fetch_all(hub: Hub, repository: Repository, name: str, part: Path, progress: Progress) -> None:
    """Until `part` has the announced size."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    size_bytes = repository.files[name].size_bytes
    failures, most = 0, 0
    part.touch()
    while (present := part.stat().st_size) != size_bytes:
        most = max(most, present)
        error: Exception | None = None
        try:
            _fetch_some(hub, repository, name, part, progress)
        except HfHubHTTPError as refused:
            status = refused.response.status_code if refused.response is not None else None
            if status not in RETRIED_STATUS:
                raise
            error = refused
        except httpx.TransportError as lost:
            error = lost
        if part.stat().st_size > most:
            failures = 0
            continue
        failures += 1
        if failures == MOST_FAILURES:
            raise error or ModelStoreError(
                f"{repository.repo_id}: the hub sends {name} with another length than the {size_bytes} bytes it "
                "announced. Try again later, or from another mirror."
            )
        _wait(hub.retry_seconds * 2 ** (failures - 1), lambda: progress(part.stat().st_size))


def _fetch_some(hub: Hub, repository: Repository, name: str, part: Path, progress: Progress) -> None:
    """Until the hub has no more, or the connection breaks, or more comes than was announced."""
    size_bytes = repository.files[name].size_bytes
    present = part.stat().st_size
    with hub.opened(repository, name, present) as stream, part.open("r+b", buffering=0) as file:
        if stream.offset > present:
            return  # it left something out
        file.truncate(stream.offset)
        file.seek(stream.offset)
        present, check_at = stream.offset, 0
        told_at, told_bytes = 0.0, 0
        for piece in stream.pieces():
            if present + len(piece) > size_bytes:
                file.truncate(0)
                return
            if present >= check_at:
                _require_space(part, size_bytes - present, hub.config.disk_free_bytes)
                check_at = present + BYTES_BETWEEN_CHECKS
            file.write(piece)
            present += len(piece)
            now = time.monotonic()
            if present - told_bytes >= BYTES_BETWEEN_REPORTS or now - told_at >= SECONDS_BETWEEN_REPORTS:
                told_at, told_bytes = now, present
                progress(present)


def _require_space(part: Path, missing_bytes: int, disk_free_bytes: int) -> None:
    free_bytes = shutil.disk_usage(part.parent).free
    if free_bytes - missing_bytes < disk_free_bytes:
        raise ModelStoreError(
            f"{part.parent}: {missing_bytes} bytes of {part.name.removesuffix(PART)} are missing, {free_bytes} bytes "
            f"are free on the disk, and downloads.disk_free_bytes keeps {disk_free_bytes} of them free. Free some and "
            "try again; what has arrived is kept."
        )


def _wait(seconds: float, still_wanted: Callable[[], None]) -> None:
    """Asks twice a second whether to go on."""
    never = threading.Event()
    while seconds > 0:
        still_wanted()
        never.wait(min(seconds, 0.5))
        seconds -= 0.5
