"""How fast prefixes go to a file and come back, and for how long that keeps other threads waiting.

`python -m loadtests.ssd_figures` prints how fast one core checks bytes, and how fast 108 MB in blobs of 12 MB are
written and read through `block_file`. What is read comes from the page cache: the disk's own speed is not measured.
"Others wait" is the longest and the tenth longest turn of a thread that does nothing but ask for the GIL; the line
"nothing else" is what the machine itself adds to that.
"""

import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.prefix_cache import block_file
from gateway.prefix_cache.cipher import NONCE_BYTES, SECTION_BYTES, TAG_BYTES, Cipher
from gateway.prefix_cache.extent import EXTENT_TOKENS, START, TOKEN_BYTES, Blob, Part, StoredArray, cut

ROUNDS = 5
CHECKED_BYTES = 100 * 2**20
BLOBS = 9
ARRAYS = 60
ARRAY_BYTES = 200_000


def main() -> None:
    check_bytes()
    with TemporaryDirectory(dir=".") as folder:
        for name, cipher in (("plain", Cipher()), ("encrypted", Cipher(os.urandom(32)))):
            write_and_read(name, cipher, Path(folder))
    report("nothing else", 0, lambda: time.sleep(0.5))


def check_bytes() -> None:
    data, sealed = memoryview(bytearray(os.urandom(CHECKED_BYTES))), memoryview(bytearray(SECTION_BYTES + TAG_BYTES))
    aead, nonce = AESGCM(bytes(32)), bytes(NONCE_BYTES)
    checks: dict[str, Callable[[memoryview], object]] = {
        "AES-GCM tag only": lambda piece: aead.encrypt_into(nonce, b"", piece, sealed[:TAG_BYTES]),
        "AES-GCM encrypting": lambda piece: aead.encrypt_into(nonce, piece, None, sealed),
        "zlib.crc32": zlib.crc32,
        "SHA-256": lambda piece: hashlib.sha256(piece).digest(),
        "BLAKE2b": lambda piece: hashlib.blake2b(piece).digest(),
    }
    for name, check in checks.items():
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for offset in range(0, CHECKED_BYTES, SECTION_BYTES):
                check(data[offset : offset + SECTION_BYTES])
            seconds.append(time.perf_counter() - began)
        print(f"{name:20} {CHECKED_BYTES / sorted(seconds)[ROUNDS // 2] / 1e6:8.0f} MB/s")


def write_and_read(name: str, cipher: Cipher, folder: Path) -> None:
    arrays = [StoredArray("float16", (ARRAY_BYTES // 2,), os.urandom(ARRAY_BYTES)) for _ in range(ARRAYS)]
    extents = [extent for extent, _ in cut(bytes(16), START, os.urandom(BLOBS * EXTENT_TOKENS * TOKEN_BYTES))]
    paths = [folder / f"{name}{number}{block_file.SUFFIX}" for number in range(BLOBS)]
    kept: list[Blob] = []

    def write() -> None:
        for path, extent in zip(paths, extents, strict=True):
            block_file.write(path, Blob(extent, Part.FULL, 0, arrays), cipher, time.time_ns())

    def read() -> None:
        kept.clear()
        kept.extend(block_file.read(path, cipher) for path in paths)

    nbytes = BLOBS * ARRAYS * ARRAY_BYTES
    for _ in range(ROUNDS):
        report(f"{name}: write", nbytes, write)
    for _ in range(ROUNDS):
        report(f"{name}: read and check", nbytes, read)
    began = time.perf_counter()
    for path in paths:
        block_file.read_header(path, cipher)
    print(f"{name}: a header in {(time.perf_counter() - began) / BLOBS * 1e6:.0f} us")


def report(name: str, nbytes: int, act: Callable[[], None]) -> None:
    """Alone, and with a thread beside it that notes how long each of its turns takes."""
    began = time.perf_counter()
    act()
    seconds = time.perf_counter() - began
    worker = threading.Thread(target=act)
    turns = []
    worker.start()
    last = time.perf_counter()
    while worker.is_alive():
        time.sleep(0)  # offers the GIL
        now = time.perf_counter()
        turns.append(now - last)
        last = now
    turns.sort()
    speed = f"{nbytes / seconds / 1e6:6.0f} MB/s alone;" if nbytes else ""
    print(f"{name:26} {speed} others wait {turns[-1] * 1e3:.2f} and {turns[-10] * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
