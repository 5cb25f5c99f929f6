"""Digests of files, read in pieces. Raise OSError."""

import hashlib
from pathlib import Path

PIECE = 1 << 20


def sha256_of_file(path: Path) -> str:
    """The hex digest of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_sha1_of_file(path: Path) -> str:
    """The name that git gives the file's content: the SHA-1 of a header and the bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
