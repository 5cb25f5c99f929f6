"""SIGKILL in the middle of writes. `KILLS=50` in the environment makes it more often."""

import os
import random
import subprocess
import sys
from pathlib import Path

from gateway.prefix_cache.block_file import SUFFIX, UNFINISHED_NAME, Flaw
from gateway.prefix_cache.extent import BlobKey, Part
from gateway.prefix_cache.ssd_tier import LOCK_NAME, SsdTier
from tests.prefix_cache.blobs import is_right
from tests.prefix_cache.endless_writer import BLOB_BYTES, CIPHER

KILLS = int(os.environ.get("KILLS", "10"))
MOST_WRITES = 6
MOST_KEPT = 20


def test_a_kill_loses_nothing_that_was_complete(tmp_path: Path) -> None:
    """After each: all that was said to be complete is there and right, and nothing else but one that was not said."""
    chance = random.Random(1)
    kept: set[BlobKey] = set()
    unfinished = 0
    for kill in range(KILLS):
        kept |= _write_until_killed(tmp_path, kill, chance)
        tier = SsdTier(tmp_path, 2**40, 0, CIPHER)
        unfinished += tier.removed[Flaw.UNFINISHED]
        assert set(tier.removed) <= {Flaw.UNFINISHED}
        names = {path.name for path in tmp_path.iterdir()} - {LOCK_NAME}
        assert names >= {f"{CIPHER.file_name(key)}{SUFFIX}" for key in kept}
        assert len(names) == len(tier) <= len(kept) + 1
        kept = {header.key for header, _ in tier.headers_of(b"a model's digest")}
        assert len(kept) == len(tier)
        for key in kept:
            found = tier.load(key)
            assert found
            assert is_right(found)
        if len(tier) > MOST_KEPT:
            tier.remove(None)
            kept = set()
        tier.close()
    assert unfinished, "no kill came in the middle of a write"


def _write_until_killed(folder: Path, seed: int, chance: random.Random) -> set[BlobKey]:
    """Kills a writer when some file of its has so many bytes; returns what it said to be complete."""
    writes, nbytes = chance.randint(0, MOST_WRITES), chance.randint(0, BLOB_BYTES)
    command = [sys.executable, "-m", "tests.prefix_cache.endless_writer", str(folder), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(writes)]
        while _unfinished_bytes(folder) < nbytes:
            assert process.poll() is None, "it ended by itself"
        process.kill()
        lines += process.stdout.readlines()
    return {BlobKey(bytes.fromhex(line), Part.FULL) for line in lines if line.endswith("\n")}


def _unfinished_bytes(folder: Path) -> int:
    try:
        return (folder / UNFINISHED_NAME).stat().st_size
    except FileNotFoundError:
        return -1
