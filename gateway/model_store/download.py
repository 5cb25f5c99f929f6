"""Fetches a model's files from the Hugging Face hub into the store: data, and code only of a model that is trusted."""

import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from gateway.errors import ModelStoreError
from gateway.model_store.adapter_format import CONFIG_NAME
from gateway.model_store.fetch import PART, fetch_file
from gateway.model_store.hub import AnnouncedFile, Hub, Repository, hub_errors_explained
from gateway.model_store.manifest import MANIFEST_NAME, Manifest, Source, StoredFile, new_manifest, write_manifest
from gateway.model_store.model_versions import DIGITS, ModelVersions
from gateway.model_store.signatures import SIGNATURE_NAME, Signer
from gateway.model_store.store_folders import DOWNLOAD, Report, StoreFolders, folder_name, require_space

ALLOWED_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.jinja", "*.txt", SIGNATURE_NAME]
CODE = ["*.py"]
REFUSED_FILES = [
    # pickles, that can hold code
    *("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle"),
    # the same weights a second time, in their makers' layout
    *("original/*", "consolidated*"),
    *(f"*{PART}", MANIFEST_NAME, f"*/{MANIFEST_NAME}"),
]


class Download:
    """One repository at one revision on its way into the store. Blocks; belongs to one thread.

    `revision` is a commit, a tag or a branch; None is the default branch. With `trusted` the code of the repository is
    fetched too.
    """

    def __init__(
        self, folders: StoreFolders, hub: Hub, repo_id: str, revision: str | None = None, *, trusted: bool = False
    ) -> None:
        self._folders = folders
        self._hub = hub
        self._repo_id = repo_id
        self._revision = revision
        self._trusted = trusted
        self._name = folder_name(repo_id)

    def run(self, report: Report, *, make_current: bool = True) -> Path:
        """The folder of the version, which is the current one from now on, unless not `make_current`.

        Asks the hub which commit that is, and fetches what is not stored yet. Of an interrupted or killed download
        every byte stays, and the next one of the same commit goes on there.

        Raises ModelStoreError that says what to do: not allowed, no such repository, no permission, no network, no
        space, wrong bytes, wrong signature; and what `report` raises, which stops the download.
        """
        self._hub.require_allowed(self._repo_id)
        with self._folders.locked(f"{self._name}{DOWNLOAD}", report):
            report(0.0, f"asking the hub for {self._repo_id}")
            repository = self._hub.describe(self._repo_id, self._revision)
            expected = expected_files(repository, trusted=self._trusted)
            with self._folders.locked(self._name, report):
                versions = self._folders.versions(self._name)
                if version := _stored_version(versions, repository, expected):
                    if make_current and versions.current != version:
                        versions.switch(version)
                    return versions.path(version)
            return self._fetch(repository, expected, report, make_current=make_current)

    def _fetch(
        self, repository: Repository, expected: dict[str, AnnouncedFile], report: Report, *, make_current: bool
    ) -> Path:
        incoming_name = f"{self._name}{DOWNLOAD}-{repository.commit[:DIGITS]}"
        folder = self._folders.incoming(incoming_name)
        folder.mkdir(exist_ok=True)
        _remove_all_but(expected, folder)
        with self._folders.locked(self._name, report):
            _take_over_stored_files(self._folders.versions(self._name), expected, folder)
        total_bytes = sum(file.size_bytes for file in expected.values())
        require_space(folder, total_bytes - _bytes_in(folder) + self._hub.config.disk_free_bytes)

        files: dict[str, StoredFile] = {}
        with hub_errors_explained(self._repo_id, self._revision):
            done_bytes = 0
            for name, announced in sorted(expected.items(), key=lambda item: item[1].size_bytes):

                def progress(of_file: int, done_before: int = done_bytes) -> None:
                    present = done_before + of_file
                    report(present / max(total_bytes, 1), f"downloading, {present} of {total_bytes} bytes")

                files[name] = fetch_file(self._hub, repository, name, folder, progress)
                done_bytes += announced.size_bytes
        write_manifest(folder, self._manifest(repository, files, folder, total_bytes))
        with self._folders.locked(self._name, report):
            published = self._folders.publish(incoming_name, make_current=make_current)
        report(1.0, f"downloaded, {total_bytes} bytes")
        return published

    def _manifest(
        self, repository: Repository, files: dict[str, StoredFile], folder: Path, total_bytes: int
    ) -> Manifest:
        source = Source(
            kind="hub",
            location=self._repo_id,
            revision=repository.commit,
            size_bytes=total_bytes,
            endpoint=self._hub.endpoint or "",
            asked="" if self._revision in (None, repository.commit) else str(self._revision),
            signed_by=Signer.of(self._hub.config).verified(folder, files),
        )
        return new_manifest(files, name=self._repo_id, source=source, licence=repository.licence, made_by="download")


def expected_files(repository: Repository, *, trusted: bool) -> dict[str, AnnouncedFile]:
    """The files to fetch. Raises ModelStoreError if they are neither a model nor an adapter, or if one would lie
    outside its folder."""
    expected = {name: file for name, file in repository.files.items() if _is_wanted(name, trusted=trusted)}
    for name in expected:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or "\0" in name:
            raise ModelStoreError(f"{repository.repo_id} names a file {name!r}, which is outside of it.")
    described = "config.json" in expected or CONFIG_NAME in expected
    if not described or not any(name.endswith(".safetensors") for name in expected):
        raise ModelStoreError(
            f"{repository.repo_id} has no config.json with *.safetensors weights, which is what the gateway loads, and "
            f"no {CONFIG_NAME} with those of a LoRA adapter. Look for the model in mlx or safetensors form."
        )
    return expected


def _is_wanted(name: str, *, trusted: bool) -> bool:
    """A model's data; not hidden files, and not a manifest that was uploaded with the folder of some other store."""
    hidden = any(part.startswith(".") and part != ".." for part in PurePosixPath(name).parts)
    if trusted and _matches(name, CODE):
        return not hidden
    return _matches(name, ALLOWED_FILES) and not _matches(name, REFUSED_FILES + CODE) and not hidden


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _stored_version(versions: ModelVersions, repository: Repository, expected: dict[str, AnnouncedFile]) -> str | None:
    return next(
        (
            version
            for version, manifest in versions.stored().items()
            if manifest.source.kind == "hub"
            and manifest.source.revision == repository.commit
            and expected.keys() <= manifest.files.keys()
        ),
        None,
    )


def _remove_all_but(expected: dict[str, AnnouncedFile], folder: Path) -> None:
    """What is not expected and would be published too."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix().removesuffix(PART)
        if path.is_file() and name not in expected:
            path.unlink()


def _take_over_stored_files(versions: ModelVersions, expected: dict[str, AnnouncedFile], folder: Path) -> None:
    """Large files that another version has need not be fetched again. They are shared, as no version ever changes."""
    stored_at = {
        stored.sha256: versions.path(version) / name
        for version, manifest in versions.stored().items()
        for name, stored in manifest.files.items()
    }
    for name, announced in expected.items():
        file = folder / name
        if announced.sha256 in stored_at and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            stored = stored_at[announced.sha256]
            try:
                os.link(stored, file)
            except OSError:  # not every file system has links
                shutil.copyfile(stored, file)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
