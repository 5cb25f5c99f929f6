"""Downloads through huggingface_hub from a real HTTP server on loopback."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.errors import ModelStoreError
from gateway.model_store.download import download_from_hub
from gateway.model_store.manifest import MANIFEST_NAME, read_manifest
from gateway.model_store.store import ModelStore

from .hub_server import COMMIT, HubServer

Report = Callable[[float, str], None]
PIECE = 10 << 20  # bytes; huggingface_hub writes and resumes in such steps
WEIGHTS = random.Random(1).randbytes(PIECE + 2_000_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}" * 50,
    "chat_template.jinja": b"{{ messages }}",
    "1_Pooling/config.json": b"{}",
    "merges.txt": b"a b",
    # none of these may arrive
    "modeling_custom.py": b"raise SystemExit",
    "tokenizer_custom.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "tokenizer.pt": b"pickle",
    "original/consolidated.safetensors": b"twice",
    "README.md": b"# card",
}
WANTED = ["1_Pooling/config.json", "chat_template.jinja", "config.json", "merges.txt"]
WANTED += ["model.safetensors", "tokenizer.json"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer({"org/model": dict(FILES), "org/pickles": {"config.json": b"{}", "model.bin": b"x"}}) as server:
        yield server
        server.shutdown()


def visible_files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST_NAME and not name.startswith("."))


def test_a_download_brings_the_data_files_and_describes_them(hub: HubServer, tmp_path: Path) -> None:
    fractions: list[float] = []

    folder = download_from_hub(
        "org/model", None, tmp_path, lambda fraction, _doing: fractions.append(fraction), hub.endpoint
    )

    assert folder == tmp_path / "models" / "org%2Fmodel"
    assert visible_files(folder) == WANTED
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    manifest = read_manifest(folder)
    assert (manifest.source.kind, manifest.source.location) == ("hub", "org/model")
    assert manifest.source.revision == COMMIT
    assert manifest.source.size_bytes == sum(len(FILES[name]) for name in WANTED)
    assert (manifest.name, manifest.licence) == ("org/model", "mit")
    assert sorted(manifest.files) == WANTED
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert any(0 < fraction < 1 for fraction in fractions)


def test_a_complete_download_is_used_without_network(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    store = ModelStore(tmp_path, hub.endpoint)
    first = store.locate("org/model", silent)
    asked = len(hub.requests)

    assert store.locate("org/model", silent) == first
    assert download_from_hub("org/model", COMMIT, tmp_path, silent, hub.endpoint) == first.folder
    assert len(hub.requests) == asked
    assert first.model_id == "org/model"
    assert COMMIT in first.origin


def test_a_cut_connection_is_resumed_within_the_file(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.cuts["model.safetensors"] = PIECE + 1_000_000

    folder = download_from_hub("org/model", None, tmp_path, silent, hub.endpoint)

    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [request.split()[2] for request in hub.downloads() if "bytes=" in request]
    assert ranges == [f"bytes={PIECE}-"]


def test_a_failed_download_keeps_whole_files_for_the_next(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.corrupt.add("model.safetensors")
    with pytest.raises(ModelStoreError, match=r"model\.safetensors did not arrive as the hub announced"):
        download_from_hub("org/model", None, tmp_path, silent, hub.endpoint)
    assert not (tmp_path / "models" / "org%2Fmodel" / MANIFEST_NAME).exists()

    hub.corrupt.clear()
    hub.requests.clear()
    folder = download_from_hub("org/model", None, tmp_path, silent, hub.endpoint)

    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [request.rpartition("/")[2] for request in hub.downloads()] == ["model.safetensors"]


def test_what_another_revision_left_is_removed(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    folder = tmp_path / "models" / "org%2Fmodel"
    folder.mkdir(parents=True)
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"old weights that mlx-lm would load as well")

    download_from_hub("org/model", None, tmp_path, silent, hub.endpoint)

    assert visible_files(folder) == WANTED


def test_a_missing_file_is_fetched_again(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    folder = download_from_hub("org/model", None, tmp_path, silent, hub.endpoint)
    (folder / "tokenizer.json").unlink()
    download_from_hub("org/model", None, tmp_path, silent, hub.endpoint)
    assert visible_files(folder) == WANTED


def test_refusals_of_the_hub_say_what_to_do(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.gated.add("org/gated")
    for repo_id, revision, told in [
        ("org/absent", None, "has no model org/absent.*Check the spelling"),
        ("org/gated", None, "accepted its terms.*hf auth login"),
        ("org/model", "v9", "no revision v9"),
        ("org/pickles", None, r"no config\.json with \*\.safetensors"),
        ("org/bad--name", None, "cannot be a model of the hub"),
    ]:
        with pytest.raises(ModelStoreError, match=told):
            download_from_hub(repo_id, revision, tmp_path, silent, hub.endpoint)


def test_without_network_the_message_says_what_to_do(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ModelStoreError, match="try again when the hub can be reached, or pass a model folder"):
        download_from_hub("org/model", None, tmp_path, silent, hub.endpoint)
