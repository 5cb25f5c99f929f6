"""A pull that is interrupted twenty times at random, half of them by kill -9, ends bit-exact."""

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.model_store.manifest import read_manifest
from gateway.model_store.store_folders import StoreFolders, folder_name

from .hub_files import FILES
from .hub_server import HubServer

CHECKOUT = Path(__file__).parents[2]
WEIGHTS = random.Random(2).randbytes(24_000_000)
KILLS = 10
CUTS = 10


@pytest.mark.slow
def test_a_pull_interrupted_at_random_ends_bit_exact(root: Path) -> None:
    choice = random.Random()
    interruptions = ["kill"] * KILLS + ["cut"] * CUTS
    choice.shuffle(interruptions)
    with HubServer({"org/model": FILES | {"model.safetensors": WEIGHTS}}) as hub:
        while interruptions:
            cuts = interruptions.index("kill") if "kill" in interruptions else len(interruptions)
            killed = cuts < len(interruptions)
            pull_once(hub, root, choice, cuts, killed)
            del interruptions[: cuts + 1]
        if killed:
            pull_once(hub, root, choice, 0, killed=False)
        hub.shutdown()

    folder = StoreFolders(root).model(folder_name("org/model"))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert all(
        (folder / name).read_bytes() == FILES[name] for name in read_manifest(folder).files if "model." not in name
    )
    resumed = [request for request in hub.downloads() if "bytes=" in request]
    assert len(resumed) > CUTS  # and not from the beginning each time
    assert list((root / "incoming").iterdir()) == []


def pull_once(hub: HubServer, root: Path, choice: random.Random, cuts: int, killed: bool) -> None:
    """In a process that loses its connection `cuts` times, and then is killed if it is to be."""
    undisturbed = threading.Event()
    left = cuts

    def cut_next(name: str, start: int, end: int) -> int:
        nonlocal left
        if name != "model.safetensors":
            return end
        if left == 0:
            undisturbed.set()
            return end
        left -= 1
        return min(end, start + choice.randrange(1_000_000))

    hub.cut_next = cut_next
    command = [sys.executable, "-m", "tests.model_store.puller", str(root), hub.endpoint]
    with subprocess.Popen(command, cwd=CHECKOUT) as process:
        if not killed:
            assert process.wait(60) == 0
            return
        assert undisturbed.wait(60)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(choice.uniform(0, 0.12))
        process.kill()
