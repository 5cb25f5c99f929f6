"""Are the stored files still what their manifests say, which is what their source declared?"""

import os
from pathlib import Path

from msgspec import Struct

from gateway.config import DownloadsConfig
from gateway.errors import ModelStoreError, NotStored
from gateway.model_store.checksums import sha256_of_file
from gateway.model_store.manifest import MANIFEST_NAME, Manifest
from gateway.model_store.signatures import SIGNATURE_NAME, Signer
from gateway.model_store.store_folders import Report, StoreFolders, folder_name


class Verified(Struct, frozen=True):
    """`damaged` files have other bytes than the manifest says, `missing` ones are gone, `foreign` ones are not in it.

    `signature` says who signed, why the signature is not accepted, or that there is none. `declared` files of all
    `files` were announced by their source with a digest, and had it when they arrived.
    """

    model: str
    version: str
    files: int
    declared: int
    damaged: list[str]
    missing: list[str]
    foreign: list[str]
    signature: str
    sound: bool


def verify_model(
    folders: StoreFolders, config: DownloadsConfig, model_id: str, report: Report, *, repair: bool = False
) -> list[Verified]:
    """Reads every byte of every version. With `repair` damaged files are removed, to be fetched or made again.

    Blocks. Raises NotStored if the store has no such model.
    """
    name = folder_name(model_id)
    held: dict[str, tuple[Manifest, int]] = {}
    try:
        with folders.locked(name, report):
            versions = folders.versions(name)
            for version, manifest in versions.manifests().items():
                held[version] = manifest, folders.use(name, version)
        if not held:
            raise NotStored(f"The store has no model {model_id!r}. `mlx-gateway versions` lists what it has.")
        return [
            _verify(versions.path(version), manifest, config, report, repair) for version, (manifest, _) in held.items()
        ]
    finally:
        for _, descriptor in held.values():
            os.close(descriptor)


def _verify(folder: Path, manifest: Manifest, config: DownloadsConfig, report: Report, repair: bool) -> Verified:
    damaged, missing = [], []
    total_bytes = sum(file.size_bytes for file in manifest.files.values())
    done_bytes = 0
    for name, file in manifest.files.items():
        report(done_bytes / max(total_bytes, 1), f"verifying {manifest.name}, {name}")
        path = folder / name
        if not path.is_file():
            missing.append(name)
        elif sha256_of_file(path) != file.sha256:
            damaged.append(name)
            if repair:
                path.unlink()
        done_bytes += file.size_bytes
    report(1.0, f"verified {manifest.name}")
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    foreign = [name for name in found if name not in manifest.files and name != MANIFEST_NAME]
    signature, accepted = _signature(folder, manifest, config)
    return Verified(
        model=manifest.name,
        version=folder.name,
        files=len(manifest.files),
        declared=sum(1 for file in manifest.files.values() if file.declared),
        damaged=damaged,
        missing=missing,
        foreign=foreign,
        signature=signature,
        sound=accepted and not (damaged or missing or foreign),
    )


def _signature(folder: Path, manifest: Manifest, config: DownloadsConfig) -> tuple[str, bool]:
    """What to say of it, and whether that is all right."""
    if not (folder / SIGNATURE_NAME).is_file():
        return "unsigned", True
    try:
        signed_by = Signer.of(config).verified(folder, manifest.files)
    except ModelStoreError as error:
        return str(error), False
    return f"signed by {signed_by}" if signed_by else "signed, but no signer is configured to compare with", True
