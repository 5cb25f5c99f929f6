"""Stores blobs in a folder until it is killed, and says which are complete: `python -m ... FOLDER SEED`."""

import sys
from pathlib import Path

from gateway.prefix_cache.cipher import Cipher
from gateway.prefix_cache.ssd_tier import SsdTier
from tests.prefix_cache.blobs import blob

BLOB_BYTES = 4 * 2**20
CIPHER = Cipher(bytes(range(32)))


def main() -> None:
    tier = SsdTier(Path(sys.argv[1]), 2**40, 0, CIPHER)
    first = 1_000_000 * int(sys.argv[2])
    for number in range(first, first + 1_000_000):
        one = blob(number, BLOB_BYTES)
        assert tier.store(one)[0]
        sys.stdout.write(f"{one.key.extent.hex()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
