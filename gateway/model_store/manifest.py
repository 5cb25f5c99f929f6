"""The manifest: what a stored model is, where it came from, and what each of its files must be.

A folder of the store is a model only while it holds a readable manifest; the manifest is written last.
"""

import os
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from gateway.errors import ModelFilesInvalid
from gateway.model_store.checksums import sha256_of_file

MANIFEST_NAME = "gateway-manifest.json"


class Source(msgspec.Struct, frozen=True):
    """Where the model was made from.

    `gguf`: `location` is the file's absolute path, and size, time and digest are the file's. `hub`:
    `location` is the repository id, `revision` the commit, `size_bytes` the sum of the files fetched, `endpoint` the
    mirror they came from (empty: the public hub), `asked` the branch or tag that led to the commit (empty: the default
    branch); time and digest are 0 and empty, the commit stands for them. `signed_by` names the key or identity whose
    signature of the files was verified. `import`: `location` is the absolute path of the file or folder, and size, time
    and digest are the file's, or for a folder the sum of what was taken, 0 and empty. `model`: made from another model;
    `location` is that one's id, `revision` what its own source says, `sha256` its fingerprint. `adapter`: `location` is
    the folder's absolute path, size and time are those of its files, and the digest is empty.
    """

    kind: Literal["gguf", "hub", "import", "model", "adapter"]
    location: str
    revision: str = ""
    size_bytes: int = 0
    modified_ns: int = 0
    sha256: str = ""
    endpoint: str = ""
    asked: str = ""
    signed_by: str = ""


class StoredFile(msgspec.Struct, frozen=True):
    """What one file of the model must be. `declared` is the kind of digest by which the source announced it, if any."""

    size_bytes: int
    sha256: str
    declared: Literal["", "sha256", "git-sha1"] = ""


class Optimisation(msgspec.Struct, frozen=True):
    """What was done to a model's weights, and what that changed.

    `recipe` is that of `quantization_recipe` or `pruning`; `removed_layers` have the original's numbers. The bytes are
    those of the weights on disk. The perplexities are of `perplexity_text.txt`; None where there was not
    enough memory to measure one.
    """

    recipe: str
    bits_per_weight: float
    bytes_before: int
    bytes_after: int
    perplexity_before: float | None = None
    perplexity_after: float | None = None
    removed_layers: list[int] = []


class Manifest(msgspec.Struct, frozen=True):
    """`files` is keyed by path relative to the model's folder, with `/`; `created_at` is ISO 8601 in UTC.

    `licence` is what the source states about itself, or empty.
    """

    name: str
    source: Source
    licence: str
    files: dict[str, StoredFile]
    created_at: str
    created_by: str
    checked: list[str] = []
    """What was tried before the model was listed, and found to be sound."""
    optimisation: Optimisation | None = None


def describe_folder(folder: Path, *, name: str, source: Source, licence: str, made_by: str) -> Manifest:
    """A manifest made now of the files in `folder`, hidden ones excepted; reads every byte of them.

    `made_by` names the step of the gateway that wrote the files.
    """
    relative_paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    files = {
        path.as_posix(): StoredFile((folder / path).stat().st_size, sha256_of_file(folder / path))
        for path in relative_paths
        if path.as_posix() != MANIFEST_NAME and not any(part.startswith(".") for part in path.parts)
    }
    return new_manifest(files, name=name, source=source, licence=licence, made_by=made_by)


def new_manifest(files: dict[str, StoredFile], *, name: str, source: Source, licence: str, made_by: str) -> Manifest:
    """As `describe_folder`, of files that are known already."""
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    created_by = f"mlx-gateway {_gateway_version()} {made_by}"
    return Manifest(name, source, licence, files, created_at, created_by)


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest; raises ModelFilesInvalid when there is none or it cannot be trusted."""
    path = folder / MANIFEST_NAME
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise ModelFilesInvalid(path, f"cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelFilesInvalid(path, f"is not a manifest: {error}") from error
    for name in manifest.files:
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise ModelFilesInvalid(path, f"names {name!r}, which is outside the model's folder")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the folder's manifest in one step, so that a crash leaves the old one or the new one."""
    temporary = folder / f".{MANIFEST_NAME}.new"
    with temporary.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest)))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / MANIFEST_NAME)


def files_are_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether every recorded file is there with its recorded size; the bytes are not read."""
    try:
        sizes = {name: (folder / name).stat().st_size for name in manifest.files}
    except OSError:
        return False
    return all(sizes[name] == stored.size_bytes for name, stored in manifest.files.items())


def _gateway_version() -> str:
    try:
        return version("mlx-gateway")
    except PackageNotFoundError:
        return "checkout"  # run from its source tree, without having been installed
