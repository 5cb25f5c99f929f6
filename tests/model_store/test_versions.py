"""Versions side by side: switching, going back and cleaning up, also when everything is killed at any moment."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.errors import ModelStoreError
from gateway.model_store.manifest import MANIFEST_NAME, read_manifest
from gateway.model_store.model_versions import version_name
from gateway.model_store.sources import HubSource
from gateway.model_store.store import ModelStore
from gateway.model_store.store_folders import StoreFolders
from gateway.model_store.upkeep import Upkeep

from .small_versions import MODEL, NAME, number_of, publish_version

CHECKOUT = Path(__file__).parents[2]
KILLS = 25


@pytest.fixture
def folders(root: Path) -> StoreFolders:
    return StoreFolders(root)


@pytest.fixture
def upkeep(folders: StoreFolders) -> Upkeep:
    return Upkeep(folders)


def test_the_newest_is_current_and_the_others_stay(folders: StoreFolders, upkeep: Upkeep) -> None:
    names = [publish_version(folders, number) for number in (1, 2, 3)]

    assert number_of(folders.model(NAME)) == 3
    versions = upkeep.versions(MODEL)
    assert {version.name for version in versions} == set(names)
    assert [version.name for version in versions if version.current] == [names[-1]]
    assert upkeep.models() == [MODEL]


def test_a_rollback_goes_back_step_by_step(folders: StoreFolders, upkeep: Upkeep) -> None:
    names = [publish_version(folders, number) for number in (1, 2, 3)]

    assert upkeep.roll_back(MODEL).name == names[1]
    assert number_of(folders.model(NAME)) == 2
    assert upkeep.roll_back(MODEL).name == names[0]
    with pytest.raises(ModelStoreError, match="no earlier version"):
        upkeep.roll_back(MODEL)
    assert upkeep.roll_back(MODEL, names[2]).name == names[2]
    assert upkeep.roll_back(MODEL).name == names[0]  # what was current before


def test_a_rollback_to_a_commit(folders: StoreFolders, upkeep: Upkeep) -> None:
    publish_version(folders, 1)
    publish_version(folders, 2)
    assert upkeep.roll_back(MODEL, "1000").revision.startswith("1000")
    with pytest.raises(ModelStoreError, match="'9' is no version"):
        upkeep.roll_back(MODEL, "9")
    with pytest.raises(ModelStoreError, match="no model 'org/absent'"):
        upkeep.roll_back("org/absent")


def test_the_same_files_again_take_the_place_of_the_damaged(folders: StoreFolders, upkeep: Upkeep) -> None:
    publish_version(folders, 1)
    (folders.model(NAME) / "config.json").write_text("damaged, though of the same length".ljust(100))
    publish_version(folders, 1)
    assert number_of(folders.model(NAME)) == 1
    assert len(upkeep.versions(MODEL)) == 1


def test_clean_up_keeps_the_current_the_one_before_and_what_is_asked_for(folders: StoreFolders, upkeep: Upkeep) -> None:
    names = [publish_version(folders, number) for number in (1, 2, 3, 4)]
    pinned = HubSource(MODEL, f"{1:040x}"[::-1])

    would = upkeep.collect_garbage(pinned=[pinned], dry_run=True)
    assert len(upkeep.versions(MODEL)) == 4
    assert upkeep.collect_garbage(pinned=[pinned]) == would
    assert [(removed.model, removed.what) for removed in would] == [(MODEL, names[1])]
    assert would[0].size_bytes > 200
    assert upkeep.collect_garbage(keep=0, pinned=[pinned])[0].what == names[2]
    assert [removed.what for removed in upkeep.collect_garbage(keep=0)] == [names[0]]
    assert [version.name for version in upkeep.versions(MODEL)] == [names[3]]


def test_nothing_in_use_is_removed(folders: StoreFolders, upkeep: Upkeep, root: Path) -> None:
    used = publish_version(folders, 1)
    with user_of(root):
        publish_version(folders, 2)
        assert [version.name for version in upkeep.versions(MODEL) if version.in_use] == [used]
        assert upkeep.collect_garbage(keep=0) == []
        for version in (used, None):
            with pytest.raises(ModelStoreError, match=f"{used} is in use"):
                upkeep.remove(MODEL, version)
    assert [removed.what for removed in upkeep.collect_garbage(keep=0)] == [used]


USE_IN_A_PROCESS = """
import sys
from pathlib import Path
from gateway.model_store.store import ModelStore
store = ModelStore(Path(sys.argv[1]))
store.locate("org/model", print)
print("uses it", flush=True)
sys.stdin.read()
"""


@contextmanager
def user_of(root: Path) -> Iterator[None]:
    """A process that has located the model, and is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", USE_IN_A_PROCESS, str(root)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "uses it\n"
            yield
        finally:
            process.kill()


def test_a_model_or_a_version_is_removed(folders: StoreFolders, upkeep: Upkeep, root: Path) -> None:
    names = [publish_version(folders, number) for number in (1, 2)]
    publish_version(folders, 1, "org/other")
    with pytest.raises(ModelStoreError, match="is the current version"):
        upkeep.remove(MODEL, names[1])
    assert [removed.what for removed in upkeep.remove(MODEL, names[0])] == [names[0]]
    assert [removed.what for removed in upkeep.remove(MODEL)] == [names[1]]
    assert upkeep.models() == ["org/other"]
    assert list((root / "incoming").iterdir()) == []
    with pytest.raises(ModelStoreError, match="no model"):
        upkeep.remove(MODEL)


def test_a_folder_of_the_time_before_versions_becomes_one(folders: StoreFolders, upkeep: Upkeep, root: Path) -> None:
    flat = make_flat(folders)
    (flat / "sub").mkdir()

    assert number_of(ModelStore(root).locate(MODEL, lambda _fraction, _doing: None).folder) == 1
    assert [version.current for version in upkeep.versions(MODEL)] == [True]
    assert sorted(path.name for path in flat.iterdir()) == sorted([upkeep.versions(MODEL)[0].name, "versions.json"])


def test_a_move_into_versions_that_was_interrupted_goes_on(folders: StoreFolders, upkeep: Upkeep) -> None:
    make_flat_halfway(make_flat(folders))
    assert [number_of(folders.model(NAME)) for _ in upkeep.versions(MODEL)] == [1]


def make_flat(folders: StoreFolders) -> Path:
    version = publish_version(folders, 1)
    flat = folders.versions(NAME).folder
    for path in (flat / version).iterdir():
        path.rename(flat / path.name)
    (flat / version).rmdir()
    (flat / "versions.json").unlink()
    return flat


def make_flat_halfway(flat: Path) -> None:
    """As if the process had been killed after the first file."""
    inside = flat / version_name(read_manifest(flat))
    inside.mkdir()
    (flat / "config.json").rename(inside / "config.json")
    assert (flat / MANIFEST_NAME).exists()


def test_without_its_pointer_the_newest_version_is_current(folders: StoreFolders) -> None:
    publish_version(folders, 1)
    (folders.versions(NAME).folder / "versions.json").write_text("{half")
    assert number_of(folders.model(NAME)) == 1


def test_killed_at_any_moment_there_is_a_whole_current_version(folders: StoreFolders, root: Path) -> None:
    publish_version(folders, 0)
    choice = random.Random(7)
    for seed in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.model_store.version_writer", str(root), str(seed)],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
        )
        with process:
            assert process.stdout
            process.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(choice.uniform(0, 0.05))
            process.kill()
        folder = folders.model(NAME)
        assert 0 <= number_of(folder) < 6
        assert folder.name in folders.versions(NAME).stored()
    Upkeep(folders).collect_garbage(keep=0)
    assert list((root / "incoming").iterdir()) == []
    assert {path.name for path in folders.versions(NAME).folder.iterdir()} == {folder.name, "versions.json"}
