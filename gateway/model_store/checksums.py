"""SHA-256 of files that may be larger than memory."""

import hashlib
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """The hex digest of the file's bytes, read in pieces; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
