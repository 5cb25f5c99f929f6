"""Publishes, rolls back, switches and cleans up until it is killed. Run with a store's folder and a seed."""

import random
import sys
from itertools import count
from pathlib import Path

from gateway.errors import ModelStoreError
from gateway.model_store.store_folders import StoreFolders
from gateway.model_store.upkeep import Upkeep
from tests.model_store.small_versions import MODEL, NAME, publish_version


def main(root: Path, seed: int) -> None:
    choice = random.Random(seed)
    folders = StoreFolders(root)
    upkeep = Upkeep(folders)
    print("begins", flush=True)  # noqa: T201
    for _ in count():
        try:
            match choice.randrange(5):
                case 0 | 1:
                    with folders.locked(NAME, lambda _fraction, _doing: None):
                        publish_version(folders, choice.randrange(6))
                case 2:
                    upkeep.roll_back(MODEL)
                case 3:
                    upkeep.roll_back(MODEL, choice.choice(upkeep.versions(MODEL)).name)
                case 4:
                    upkeep.collect_garbage(keep=choice.randrange(3))
        except ModelStoreError:
            continue  # there is no earlier version to go back to


main(Path(sys.argv[1]), int(sys.argv[2]))
