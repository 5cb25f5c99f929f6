"""Everything that is asked of the Hugging Face hub, or of a mirror with its API. May be used from several threads."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gateway.config import DownloadsConfig
from gateway.errors import DownloadRefused, ModelStoreError
from gateway.model_store.store_folders import DISK_IS_FULL

CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 30.0
"""A connection that brings nothing for so long is given up."""


@dataclass(frozen=True, slots=True)
class AnnouncedFile:
    """What the hub says of a file: the digest it gives is the SHA-256 of a large file or git's name of a small one."""

    size_bytes: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit; `files` by their paths in it, `licence` empty if it states none."""

    repo_id: str
    commit: str
    files: dict[str, AnnouncedFile]
    licence: str


class Hub:
    """`config` says which hub, with which token, and what may be fetched how fast.

    What cannot be reached is tried again after `retry_seconds`, then after twice as long, and so on.
    """

    def __init__(self, config: DownloadsConfig, retry_seconds: float = 1.0) -> None:
        self.retry_seconds = retry_seconds
        self.config = config
        self._pace = Pace(config.bytes_per_second)

    @property
    def endpoint(self) -> str | None:
        """None is the public hub."""
        return self.config.endpoint.rstrip("/") or None

    def require_allowed(self, repo_id: str) -> None:
        """Raises DownloadRefused if the configuration forbids to fetch this repository."""
        if not any(fnmatchcase(repo_id, pattern) for pattern in self.config.allow):
            raise DownloadRefused(
                f"{repo_id} may not be downloaded here: downloads.allow has only "
                f"{', '.join(self.config.allow) or 'an empty list'}. Add a pattern that fits, or choose another model."
            )
        if self.config.offline:
            raise DownloadRefused(
                f"{repo_id} is not stored, and downloads.offline is set. Set it to false, or choose a stored model."
            )

    def describe(self, repo_id: str, revision: str | None) -> Repository:
        """The repository at `revision` (a commit, branch or tag; None: the default branch).

        Raises ModelStoreError that says what to do: no such repository, no permission, no network.
        """
        self.require_allowed(repo_id)
        # imported here because it takes a good part of a second, which a server of local models need not wait
        from huggingface_hub import HfApi

        with hub_errors_explained(repo_id, revision):
            api = HfApi(endpoint=self.endpoint, token=self._token())
            info = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=SILENCE_SECONDS)
        files = {
            file.rfilename: AnnouncedFile(file.size or 0, sha256=file.lfs.sha256)
            if file.lfs
            else AnnouncedFile(file.size or 0, git_sha1=file.blob_id or "")
            for file in info.siblings or ()
        }
        licence = info.card_data.get("license") if info.card_data else None
        return Repository(repo_id, info.sha or "", files, str(licence or ""))

    @contextmanager
    def opened(self, repository: Repository, name: str, offset: int) -> Iterator["FileStream"]:
        """The file's bytes from `offset` on, or from its beginning: see `FileStream.offset`.

        Raises what the HTTP client raises, `hub_errors_explained` sorts it.
        """
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
            httpx,
        )

        url = hf_hub_url(repository.repo_id, name, revision=repository.commit, endpoint=self.endpoint)
        headers = {**build_hf_headers(token=self._token()), "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            yield FileStream(response, self._pace)

    def _token(self) -> str | bool | None:
        """None has huggingface_hub look for the one that the user logged in with, which is for the public hub only."""
        if not self.config.token_file:
            return False if self.endpoint else None
        file = Path(self.config.token_file).expanduser()
        try:
            return file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ModelStoreError(f"downloads.token_file {file} cannot be read: {error}") from error


class FileStream:
    """A file on its way, from byte `offset` on."""

    def __init__(self, response: Any, pace: "Pace") -> None:
        self._response = response
        self._pace = pace
        found = response.headers.get("content-range", "")
        start = found.removeprefix("bytes ").partition("-")[0]
        self.offset = int(start) if response.status_code == 206 and start.isdecimal() else 0

    def pieces(self) -> Iterator[bytes]:
        """As they arrive, some 64 KiB at most: what was gathered into larger ones would be lost with the connection."""
        for piece in self._response.iter_raw():
            self._pace.wait(len(piece))
            yield piece


class Pace:
    """Holds all who share it to `bytes_per_second` together; 0 is no limit."""

    def __init__(self, bytes_per_second: int) -> None:
        self._bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, size_bytes: int) -> None:
        """Until the bytes that have just arrived may have taken that long."""
        if not self._bytes_per_second:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + size_bytes / self._bytes_per_second
            seconds = self._free_at - now
        time.sleep(seconds)


@contextmanager
def hub_errors_explained(repo_id: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # whichever of httpx and httpx2 the installed version uses; exported for this purpose, but lazily
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    try:
        yield
    except GatedRepoError as error:
        raise ModelStoreError(
            f"{repo_id} is only for those who accepted its terms. Accept them on its page of the hub, "
            "then log in with `hf auth login`, or give a token in downloads.token_file."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelStoreError(
            f"The hub has no model {repo_id}, or it is private. Check the spelling; for a private model "
            "log in with `hf auth login`, or give a token in downloads.token_file."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelStoreError(f"{repo_id} has no revision {revision}. Check the branch, tag or commit.") from error
    except HFValidationError as error:
        raise ModelStoreError(f"{repo_id} cannot be a model of the hub: {error}") from error
    except (OSError, httpx.HTTPError) as error:
        if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
            raise
        raise ModelStoreError(
            f"{repo_id} could not be fetched from the hub: {error}. What has arrived is kept: try again when "
            "the hub can be reached, or pass a model folder or a GGUF file of this machine."
        ) from error
