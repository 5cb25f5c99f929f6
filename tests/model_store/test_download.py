"""Downloads from a real HTTP server on loopback, which does all that servers and networks do wrong."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config import DownloadsConfig
from gateway.errors import ModelStoreError
from gateway.model_store.download import Download
from gateway.model_store.hub import Hub, Pace
from gateway.model_store.manifest import MANIFEST_NAME, read_manifest
from gateway.model_store.sources import HubSource
from gateway.model_store.store import ModelStore
from gateway.model_store.store_folders import StoreFolders

from .hub_files import FILES, WANTED, WEIGHTS
from .hub_server import COMMIT, HubServer

Report = Callable[[float, str], None]
MIDDLE = len(WEIGHTS) // 2


def download(
    hub: HubServer,
    root: Path,
    report: Report,
    repo_id: str = "org/model",
    revision: str | None = None,
    **settings: object,
) -> Path:
    config = DownloadsConfig(endpoint=hub.endpoint, disk_free_bytes=0, **settings)  # type: ignore[arg-type]
    return Download(StoreFolders(root), Hub(config, retry_seconds=0.001), repo_id, revision).run(report)


def visible_files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST_NAME)


def ranges(hub: HubServer) -> list[str]:
    return [request.split()[2] for request in hub.downloads() if "bytes=" in request]


def test_a_download_brings_the_data_files_and_describes_them(hub: HubServer, tmp_path: Path) -> None:
    fractions: list[float] = []

    folder = download(hub, tmp_path, lambda fraction, _doing: fractions.append(fraction))

    assert folder.parent == tmp_path / "models" / "org%2Fmodel"
    assert folder.name.startswith(COMMIT[:12])
    assert visible_files(folder) == WANTED
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    manifest = read_manifest(folder)
    source = manifest.source
    assert (source.kind, source.location, source.revision) == ("hub", "org/model", COMMIT)
    assert (source.endpoint, source.asked, source.signed_by) == (hub.endpoint, "", "")
    assert source.size_bytes == sum(len(FILES[name]) for name in WANTED)
    assert (manifest.name, manifest.licence) == ("org/model", "mit")
    assert sorted(manifest.files) == WANTED
    assert manifest.files["model.safetensors"].declared == "sha256"
    assert manifest.files["config.json"].declared == "git-sha1"
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert fractions == sorted(fractions)
    assert any(0 < fraction < 1 for fraction in fractions)
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_complete_download_is_used_without_network(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    store = ModelStore(tmp_path, DownloadsConfig(endpoint=hub.endpoint))
    first = store.locate("org/model", silent)
    asked = len(hub.requests)

    assert store.locate("org/model", silent) == first
    for revision in (COMMIT, COMMIT[:7]):
        pinned = store.locate(f"org/model@{revision}", silent)
        assert (pinned.folder, pinned.model_id) == (first.folder, f"org/model@{revision}")
    assert len(hub.requests) == asked
    assert first.model_id == "org/model"
    assert COMMIT in first.origin


@pytest.mark.parametrize("cut_at", [0, 1, MIDDLE, len(WEIGHTS) - 1])
def test_a_cut_connection_is_resumed_at_the_byte(cut_at: int, hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.cuts["model.safetensors"] = cut_at

    folder = download(hub, tmp_path, silent)

    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert ranges(hub) == ([f"bytes={cut_at}-"] if cut_at else [])


def test_a_hub_without_ranges_begins_anew(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.without_ranges = True
    hub.cuts["model.safetensors"] = MIDDLE
    assert (download(hub, tmp_path, silent) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_stopped_download_goes_on_in_the_next_process(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    def stop(fraction: float, _doing: str) -> None:
        if fraction > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(hub, tmp_path, stop)
    (incoming,) = (tmp_path / "incoming").iterdir()
    present = (incoming / "model.safetensors.part").stat().st_size
    hub.requests.clear()
    ModelStore(tmp_path)  # what starts meanwhile leaves it alone

    folder = download(hub, tmp_path, silent)

    assert 0 < present < len(WEIGHTS)
    assert ranges(hub) == [f"bytes={present}-"]
    assert len(hub.downloads()) == 1  # the small files had arrived
    assert visible_files(folder) == WANTED
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_bytes_are_never_taken(name: str, hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.corrupt.add(name)
    with pytest.raises(ModelStoreError, match=rf"{name} did not arrive as the hub announced it, 2 times"):
        download(hub, tmp_path, silent)
    assert list((tmp_path / "models").iterdir()) == []

    hub.corrupt.clear()
    assert visible_files(download(hub, tmp_path, silent)) == WANTED


def test_a_file_damaged_while_the_download_waited_is_fetched_again(
    hub: HubServer, tmp_path: Path, silent: Report
) -> None:
    def stop(fraction: float, _doing: str) -> None:
        if fraction == 1.0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(hub, tmp_path, stop)
    (incoming,) = (tmp_path / "incoming").iterdir()
    (incoming / "config.json").write_bytes(b"x" * len(FILES["config.json"]))

    folder = download(hub, tmp_path, silent)

    assert (folder / "config.json").read_bytes() == FILES["config.json"]


@pytest.mark.parametrize("longer", [1, -1, 5_000_000])
def test_a_lie_about_the_length_is_found(longer: int, hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.longer["model.safetensors"] = longer
    with pytest.raises(ModelStoreError, match=rf"another length than the {len(WEIGHTS)} bytes it announced"):
        download(hub, tmp_path, silent)
    assert (next(tmp_path.rglob("model.safetensors.part"))).stat().st_size <= len(WEIGHTS)


def test_a_connection_that_always_breaks_is_given_up(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.cut_next = lambda _name, start, _end: start
    with pytest.raises(ModelStoreError, match="What has arrived is kept: try again"):
        download(hub, tmp_path, silent)


def test_only_what_changed_is_fetched_for_a_new_version(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    first = download(hub, tmp_path, silent)
    hub.commit("org/model", "f" * 40, {**FILES, "config.json": b'{"model_type": "qwen3"}'})
    hub.requests.clear()

    second = download(hub, tmp_path, silent)

    assert not [request for request in hub.downloads() if request.endswith("model.safetensors")]
    assert (second / "model.safetensors").read_bytes() == WEIGHTS
    assert (first / "config.json").read_bytes() == FILES["config.json"]
    assert (second / "config.json").read_bytes() == b'{"model_type": "qwen3"}'


def test_a_pinned_source_leaves_the_current_version_alone(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.commit("org/model", "f" * 40, FILES | {"config.json": b"{}"}, branch="next")
    store = ModelStore(tmp_path, DownloadsConfig(endpoint=hub.endpoint))
    current = store.locate("org/model", silent)

    pinned = store.locate("org/model@next", silent)

    assert pinned.folder != current.folder
    assert store.locate("org/model", silent) == current
    assert store.locate("org/model@next", silent) == pinned
    assert store.pull(HubSource("org/model", "next"), silent) == pinned.folder
    assert store.locate("org/model", silent).folder == pinned.folder


def test_a_missing_file_is_fetched_again(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    folder = download(hub, tmp_path, silent)
    (folder / "tokenizer.json").unlink()
    folder = download(hub, tmp_path, silent)
    assert visible_files(folder) == WANTED
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_code_comes_with_a_trusted_model_only(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    files = FILES | {"config.json": b'{"model_file": "modeling_custom.py"}'}
    hub.commit("org/model", COMMIT, files)
    store = ModelStore(tmp_path, DownloadsConfig(endpoint=hub.endpoint))

    untrusted = store.locate("org/model", silent).folder
    trusted = store.locate("org/model", silent, trusted=True).folder

    assert not (untrusted / "modeling_custom.py").exists()
    assert (trusted / "modeling_custom.py").read_bytes() == FILES["modeling_custom.py"]
    assert not list(trusted.rglob("*.bin"))
    assert store.locate("org/model", silent, trusted=True).folder == trusted


def test_two_downloads_of_one_model_fetch_it_once(hub: HubServer, tmp_path: Path) -> None:
    one_waits = threading.Event()

    def hold(_name: str, _start: int, end: int) -> int:
        one_waits.wait(10)
        return end

    def report(_fraction: float, doing: str) -> None:
        if "waiting for another process" in doing:
            one_waits.set()

    hub.cut_next = hold
    both = [threading.Thread(target=download, args=(hub, tmp_path, report)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert one_waits.is_set()
    assert len(hub.downloads()) == len(WANTED)


def test_the_disk_is_not_filled_to_the_brim(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    config = DownloadsConfig(endpoint=hub.endpoint, disk_free_bytes=shutil.disk_usage(tmp_path).total)
    with pytest.raises(ModelStoreError, match=r"needs \d+ bytes and the disk has \d+ free"):
        Download(StoreFolders(tmp_path), Hub(config), "org/model").run(silent)
    assert hub.downloads() == []


def test_all_downloads_together_keep_to_the_bandwidth() -> None:
    pace = Pace(1_000_000)
    began = time.monotonic()
    both = [threading.Thread(target=pace.wait, args=(100_000,)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert 0.2 <= time.monotonic() - began < 2


def test_the_token_goes_to_the_hub_it_is_for(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    file = tmp_path / "token"
    file.write_text("hf_secret\n")
    download(hub, tmp_path / "one", silent)
    assert hub.tokens == {None}
    download(hub, tmp_path / "two", silent, token_file=str(file))
    assert hub.tokens == {None, "Bearer hf_secret"}
    with pytest.raises(ModelStoreError, match=r"downloads\.token_file .*cannot be read"):
        download(hub, tmp_path / "three", silent, token_file=str(tmp_path / "absent"))


def test_what_is_not_allowed_is_not_even_asked_for(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    with pytest.raises(ModelStoreError, match=r"downloads\.allow has only other/\*, mlx-\*"):
        download(hub, tmp_path, silent, allow=["other/*", "mlx-*"])
    with pytest.raises(ModelStoreError, match=r"is not stored, and downloads\.offline is set"):
        download(hub, tmp_path, silent, offline=True)
    assert hub.requests == []
    download(hub, tmp_path, silent, allow=["org/*"])


def test_offline_what_is_stored_is_used(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    folder = download(hub, tmp_path, silent)
    store = ModelStore(tmp_path, DownloadsConfig(offline=True, allow=[]))
    assert store.locate("org/model", silent).folder == folder


@pytest.mark.parametrize("name", ["../outside.json", "/tmp/outside.json", "a/../../outside.json", "a\\..\\x.json"])
def test_no_file_name_leads_outside(name: str, hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.commit("org/model", COMMIT, FILES | {name: b"{}"})
    with pytest.raises(ModelStoreError, match="outside of it"):
        download(hub, tmp_path, silent)
    assert hub.downloads() == []


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
            download(hub, tmp_path, silent, repo_id, revision)


def test_without_network_the_message_says_what_to_do(hub: HubServer, tmp_path: Path, silent: Report) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ModelStoreError, match="try again when the hub can be reached, or pass a model folder"):
        download(hub, tmp_path, silent)
