"""Fetches a model's files from the Hugging Face hub into the store; data only, never code or pickles."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store.manifest import (
    MANIFEST_NAME,
    Manifest,
    Source,
    StoredFile,
    describe_folder,
    files_are_whole,
    read_manifest,
    write_manifest,
)
from gateway.model_store.store_folders import (
    DISK_IS_FULL,
    Report,
    StoreFolders,
    disk_errors_explained,
    folder_name,
    require_space,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

ALLOWED_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.jinja", "*.txt"]
REFUSED_FILES = [
    # code, and pickles that can hold code
    *("*.py", "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle"),
    # the same weights a second time, in their makers' layout
    *("original/*", "consolidated*"),
]


def download_from_hub(
    repo_id: str, revision: str | None, root: Path, report: Report, endpoint: str | None = None
) -> Path:
    """The folder in the store under `root` that holds the repository's model; downloads what is missing.

    A complete earlier download is used without touching the network, unless `revision` names another commit
    than the one it holds. An interrupted one goes on: whole files stay, and a cut connection is resumed
    within the file, in steps of 10 MiB. `report` is called from several threads. `endpoint`: None is the public hub.

    Raises ModelStoreError that says what to do: no such repository, no permission, no network, no space.
    """
    with disk_errors_explained(root):
        folders = StoreFolders(root)
        name = folder_name(repo_id)
        folder = folders.model(name)
        if folder.is_symlink():
            raise ModelStoreError(f"{folder} is a link, and files behind it would be replaced. Pass its target.")
        with folders.locked(name, report):
            if not _is_complete(folder, repo_id, revision):
                _download(repo_id, revision, folder, report, endpoint)
        return folder


def _is_complete(folder: Path, repo_id: str, revision: str | None) -> bool:
    try:
        manifest = read_manifest(folder)
    except ModelFilesInvalid:
        return False
    source = manifest.source
    is_asked_for = source.kind == "hub" and source.location == repo_id and revision in (None, source.revision)
    return is_asked_for and files_are_whole(folder, manifest)


def _download(repo_id: str, revision: str | None, folder: Path, report: Report, endpoint: str | None) -> None:
    # imported here because it takes a good part of a second, which a server of local models need not wait
    from huggingface_hub import HfApi, snapshot_download

    report(0.0, f"asking the hub for {repo_id}")
    with _hub_errors_explained(repo_id, revision):
        info = HfApi(endpoint=endpoint).model_info(repo_id, revision=revision, files_metadata=True)
        expected = _expected_files(repo_id, info)
        total_bytes = sum(file.size_bytes for file in expected.values())
        folder.mkdir(exist_ok=True)
        # from here until its end a download of another revision leaves no complete model
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        present_bytes = _remove_all_but(expected, folder)
        require_space(folder, total_bytes - present_bytes)
        snapshot_download(
            repo_id,
            revision=info.sha,
            local_dir=folder,
            allow_patterns=sorted(expected),
            endpoint=endpoint,
            tqdm_class=_reporting_bar(present_bytes, total_bytes, report),
        )
    report(1.0, "checking the files")
    write_manifest(folder, _checked_manifest(repo_id, info, expected, folder))


def _expected_files(repo_id: str, info: "ModelInfo") -> dict[str, StoredFile]:
    """What the hub says of the files to fetch; the digest is empty where it gives none."""
    expected = {
        file.rfilename: StoredFile(file.size or 0, file.lfs.sha256 if file.lfs else "")
        for file in info.siblings or ()
        if _is_wanted(file.rfilename)
    }
    if "config.json" not in expected or not any(name.endswith(".safetensors") for name in expected):
        raise ModelStoreError(
            f"{repo_id} has no config.json with *.safetensors weights, which is what the gateway loads. "
            "Look for the model in mlx or safetensors form."
        )
    return expected


def _is_wanted(name: str) -> bool:
    """A model's data; not hidden files, and not a manifest that was uploaded with the folder of some other store."""
    hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    wanted = _matches(name, ALLOWED_FILES) and not _matches(name, REFUSED_FILES)
    return wanted and not hidden and name != MANIFEST_NAME


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _remove_all_but(expected: dict[str, StoredFile], folder: Path) -> int:
    """Remove what another revision left: mlx-lm would load its weights too. Returns the bytes that stay."""
    present_bytes = 0
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if not path.is_file() or relative.parts[0] == ".cache":  # huggingface_hub's own notes
            continue
        if relative.as_posix() in expected:
            present_bytes += path.stat().st_size
        else:
            path.unlink()
    return present_bytes


def _checked_manifest(repo_id: str, info: "ModelInfo", expected: dict[str, StoredFile], folder: Path) -> Manifest:
    """Compare the folder with what the hub announced; removes damaged files and raises ModelStoreError."""
    source = Source(
        kind="hub",
        location=repo_id,
        revision=info.sha or "",
        size_bytes=sum(file.size_bytes for file in expected.values()),
    )
    licence = info.card_data.get("license") if info.card_data else None
    manifest = describe_folder(folder, name=repo_id, source=source, licence=str(licence or ""), made_by="download")
    damaged = []
    for name, file in expected.items():
        found = manifest.files.get(name, StoredFile(0, ""))
        if found.size_bytes != file.size_bytes or file.sha256 not in ("", found.sha256):
            damaged.append(name)
            (folder / name).unlink(missing_ok=True)
    if damaged:
        raise ModelStoreError(
            f"{repo_id}: {', '.join(damaged)} did not arrive as the hub announced and was removed. Try again."
        )
    return manifest


@contextmanager
def _hub_errors_explained(repo_id: str, revision: str | None) -> Iterator[None]:
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
            "then log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelStoreError(
            f"The hub has no model {repo_id}, or it is private. Check the spelling; for a private model "
            "log in with `hf auth login`."
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


def _reporting_bar(present_bytes: int, total_bytes: int, report: Report) -> Any:
    """A tqdm class that draws nothing and reports: the only way huggingface_hub tells its progress."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class ReportingBar(tqdm):
        monitor_interval = 0  # no thread that would redraw a bar nobody sees

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # every piece is reported: they are 10 MiB, so there are few
            kwargs |= {"disable": False, "file": io.StringIO(), "mininterval": 0, "miniters": 1}
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

        def display(self, *_args: Any, **_kwargs: Any) -> None:
            if self.unit == "B":
                done_bytes = min(present_bytes + self.n, total_bytes)
                report(done_bytes / max(total_bytes, 1), f"downloading, {done_bytes} of {total_bytes} bytes")

    return ReportingBar
