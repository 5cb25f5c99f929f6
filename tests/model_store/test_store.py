"""The store on a real disk with real child processes: one import, reused until its source or its files change."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store.manifest import MANIFEST_NAME, read_manifest
from gateway.model_store.store import ModelStore
from gateway.model_store.store_folders import StoreFolders, disk_errors_explained, require_space

from .tiny_gguf import tiny_tensors, write_gguf

Report = Callable[[float, str], None]
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


class Progress:
    """A report that remembers; `calls` is empty when no work was done."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, str]] = []

    def __call__(self, fraction: float, doing: str) -> None:
        self.calls.append((fraction, doing))


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != MANIFEST_NAME}


def test_an_import_reports_and_leaves_a_described_model(file: Path, root: Path) -> None:
    progress = Progress()
    model = ModelStore(root).locate(str(file), progress)

    assert (model.model_id, model.folder.parent) == ("tiny", root / "models" / "tiny")
    fractions = [fraction for fraction, _ in progress.calls]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    manifest = read_manifest(model.folder)
    assert manifest == model.manifest
    assert (manifest.name, manifest.licence) == ("tiny", "apache-2.0")
    assert (manifest.source.kind, manifest.source.location) == ("gguf", str(file))
    assert re.fullmatch(r"mlx-gateway \S+ import_gguf", manifest.created_by)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest.created_at)
    assert set(manifest.files) == set(written_at(model.folder))
    assert list((root / "incoming").iterdir()) == []


def test_a_second_start_reuses_the_import(file: Path, root: Path) -> None:
    first = ModelStore(root).locate(str(file), Progress())
    before, progress = written_at(first.folder), Progress()

    assert ModelStore(root).locate(str(file), progress) == first
    assert progress.calls == []
    assert written_at(first.folder) == before


def test_the_same_bytes_elsewhere_or_touched_are_reused(file: Path, root: Path, tmp_path: Path) -> None:
    first = ModelStore(root).locate(str(file), Progress())
    before, progress = written_at(first.folder), Progress()
    os.utime(file, ns=(1, 1))
    moved = tmp_path / "elsewhere" / file.name
    moved.parent.mkdir()

    touched = ModelStore(root).locate(str(file), progress)
    file.rename(moved)
    relocated = ModelStore(root).locate(str(moved), progress)

    assert progress.calls == []
    assert written_at(first.folder) == before
    assert touched.manifest is not None
    assert touched.manifest.source.modified_ns == 1  # so that the next start need not read the file
    assert relocated.manifest is not None
    assert read_manifest(first.folder) == relocated.manifest
    assert relocated.manifest.source.location == str(moved)


def test_other_bytes_are_imported_anew(file: Path, root: Path) -> None:
    first = ModelStore(root).locate(str(file), Progress())
    write_gguf(file, {"llama.context_length": 64})

    second = ModelStore(root).locate(str(file), Progress())

    assert '"max_position_embeddings": 64' in (second.folder / "config.json").read_text()
    assert '"max_position_embeddings": 64' not in (first.folder / "config.json").read_text()
    assert list((root / "incoming").iterdir()) == []


def test_a_file_of_the_same_size_and_time_elsewhere_is_not_mistaken(file: Path, root: Path, tmp_path: Path) -> None:
    ModelStore(root).locate(str(file), Progress())
    other = tmp_path / "elsewhere" / file.name
    other.parent.mkdir()
    write_gguf(other, {"llama.context_length": 64})
    assert other.stat().st_size == file.stat().st_size
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))

    model = ModelStore(root).locate(str(other), Progress())

    assert '"max_position_embeddings": 64' in (model.folder / "config.json").read_text()


def lose_a_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def shorten_a_file(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def corrupt_the_manifest(folder: Path) -> None:
    (folder / MANIFEST_NAME).write_bytes(b'{"name": "tiny", "files"')


def empty_the_manifest(folder: Path) -> None:
    (folder / MANIFEST_NAME).write_bytes(b"[]")


def lose_the_manifest(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()


def point_the_manifest_outside(folder: Path) -> None:
    manifest = folder / MANIFEST_NAME
    manifest.write_text(manifest.read_text().replace('"config.json"', '"../../../tiny.gguf"'))


@pytest.mark.parametrize(
    "damage",
    [
        lose_a_file,
        shorten_a_file,
        corrupt_the_manifest,
        empty_the_manifest,
        lose_the_manifest,
        point_the_manifest_outside,
    ],
)
def test_a_damaged_model_is_imported_anew(damage: Callable[[Path], None], file: Path, root: Path) -> None:
    model = ModelStore(root).locate(str(file), Progress())
    damage(model.folder)
    progress = Progress()

    again = ModelStore(root).locate(str(file), progress)

    assert progress.calls
    assert again.manifest == read_manifest(again.folder)
    assert all(
        (again.folder / name).stat().st_size == stored.size_bytes
        for name, stored in read_manifest(again.folder).files.items()
    )


LOCATE_IN_A_PROCESS = """
import sys
from pathlib import Path
from gateway.model_store.store import ModelStore

def report(fraction, doing):
    print(doing, flush=True)
    if sys.argv[3] == "stop at " + doing:
        sys.stdin.read()

print(ModelStore(Path(sys.argv[1])).locate(sys.argv[2], report).folder, flush=True)
"""


def start_process(root: Path, file: Path, stop_at: str = "") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", LOCATE_IN_A_PROCESS, str(root), str(file), f"stop at {stop_at}"],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_until(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    while (read := process.stdout.readline()).strip() != line:
        assert read, f"the process ended before it said {line!r}"


def test_two_processes_import_once(file: Path, root: Path) -> None:
    first = start_process(root, file, stop_at="writing the tokenizer")
    read_until(first, "writing the tokenizer")
    second = start_process(root, file)
    read_until(second, "waiting for another process that works on this model")

    first_output, _ = first.communicate()  # closes its stdin, which lets it go on
    second_output, _ = second.communicate()

    assert (first.returncode, second.returncode) == (0, 0)
    folder = str(StoreFolders(root).model("tiny"))
    assert first_output.splitlines()[-1] == folder
    assert second_output.splitlines() == [folder]  # and no word of an import of its own


def test_a_killed_import_leaves_nothing_that_is_used(demo_file: Path, root: Path) -> None:
    # the demo model: its import lasts long enough to be stopped in the middle
    process = start_process(root, demo_file, stop_at="reading the GGUF")
    read_until(process, "reading the GGUF")
    (importer,) = psutil.Process(process.pid).children()
    importer.suspend()  # so that it outlives its parent
    process.send_signal(signal.SIGKILL)
    process.communicate()

    ModelStore(root)
    leftovers = [path.name for path in (root / "incoming").iterdir()]
    importer.resume()
    assert leftovers == [demo_file.stem]  # the orphan still holds the lock
    assert list((root / "models").iterdir()) == []

    model = ModelStore(root).locate(str(demo_file), Progress())

    assert model.manifest == read_manifest(StoreFolders(root).model(demo_file.stem))
    assert list((root / "incoming").iterdir()) == []


def test_leftovers_are_removed_at_start_unless_someone_works_there(root: Path) -> None:
    ModelStore(root)
    for name in ("dead", "alive"):
        (root / "incoming" / name).mkdir()
        (root / "incoming" / name / "model.safetensors").write_bytes(b"half")
    with (root / "locks" / "alive").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ModelStore(root)
        assert [path.name for path in (root / "incoming").iterdir()] == ["alive"]
    ModelStore(root)
    assert list((root / "incoming").iterdir()) == []


def test_a_report_that_raises_stops_the_import(file: Path, root: Path) -> None:
    def refuse(_fraction: float, doing: str) -> None:
        raise KeyboardInterrupt(doing)

    with pytest.raises(KeyboardInterrupt, match="reading the GGUF"):
        ModelStore(root).locate(str(file), refuse)
    assert list((root / "incoming").iterdir()) == []
    assert list((root / "models").iterdir()) == []


def test_a_crash_of_the_child_is_told_as_a_broken_file(file: Path, root: Path) -> None:
    others = psutil.Process().children()  # servers that all tests share, for one

    def crash(_fraction: float, _doing: str) -> None:
        for child in set(psutil.Process().children()) - set(others):
            child.send_signal(signal.SIGSEGV)

    with pytest.raises(ModelFilesInvalid, match="is broken: the importer was killed by signal 11"):
        ModelStore(root).locate(str(file), crash)
    assert list((root / "incoming").iterdir()) == []
    assert list((root / "models").iterdir()) == []


def test_only_the_owner_may_enter_the_store(root: Path) -> None:
    ModelStore(root)
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_was_there_keeps_its_mode(root: Path) -> None:
    """It may be shared on purpose; closing it would lock others out."""
    root.mkdir()
    root.chmod(0o775)
    ModelStore(root)
    assert root.stat().st_mode & 0o777 == 0o775


def test_a_store_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ModelStoreError, match="taken"):
        ModelStore(tmp_path / "taken")


def test_a_full_disk_is_told_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(ModelStoreError, match=r"needs 4611686018427387904 bytes and the disk has \d+ free"):
        require_space(tmp_path, 1 << 62)
    with pytest.raises(ModelStoreError, match=r"the disk is full, \d+ bytes are free"), disk_errors_explained(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))


def test_a_model_of_another_architecture_names_it(root: Path, tmp_path: Path, silent: Report) -> None:
    file = write_gguf(tmp_path / "phi.gguf", {"general.architecture": "phi3"}, tiny_tensors())
    with pytest.raises(ModelFilesInvalid, match="phi3"):
        ModelStore(root).locate(str(file), silent)
