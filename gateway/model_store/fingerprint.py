"""What a model computes, in a few bytes: what was computed with one fingerprint may be reused with the same."""

import struct
from hashlib import sha256
from pathlib import Path

from gateway.errors import ModelFilesInvalid
from gateway.model_store.manifest import Manifest

LENGTH = struct.Struct("<Q")


def fingerprint(folder: Path, manifest: Manifest | None) -> bytes:
    """32 bytes, from the digests in the manifest if there is one.

    Else from the configuration and from each weight file's name, header, size and time: who changes a weight in place
    changes the time, and who copies the folder only begins with an empty cache. Raises `ModelFilesInvalid`.
    """
    digest = sha256()
    if manifest:
        for name, file in sorted(manifest.files.items()):
            digest.update(f"{name} {file.size_bytes} {file.sha256}\n".encode())
        return digest.digest()
    try:
        digest.update((folder / "config.json").read_bytes())
        for path in sorted(folder.glob("*.safetensors")):
            status = path.stat()
            digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
            digest.update(_header(path, status.st_size))
    except OSError as error:
        raise ModelFilesInvalid(folder, f"cannot be read: {error}") from error
    return digest.digest()


def _header(path: Path, size: int) -> bytes:
    """A safetensors file begins with the length of its header, which names every tensor."""
    with path.open("rb") as file:
        prefix = file.read(LENGTH.size)
        length = LENGTH.unpack(prefix)[0] if len(prefix) == LENGTH.size else 0
        return file.read(min(length, size))
