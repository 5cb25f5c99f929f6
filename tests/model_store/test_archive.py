"""Archives from anywhere: nothing outside the folder, no links, no bombs."""

import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store import archive as archive_module
from gateway.model_store.archive import unpack

Report = Callable[[float, str], None]
OUTSIDE = ["../evil", "/evil", "a/../../evil", "..", "a\\..\\evil", "C:/evil", "./../evil"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unpacked").mkdir()
    return tmp_path / "unpacked"


def zip_of(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return path


def tar_of(path: Path, *entries: tarfile.TarInfo, content: bytes = b"content") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for entry in entries:
            if entry.isreg():
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def tar_entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leads_outside(name: str, folder: Path, tmp_path: Path, silent: Report) -> None:
    for archive in (zip_of(tmp_path / "a.zip", (name, b"x")), tar_of(tmp_path / "a.tar.gz", tar_entry(name))):
        with pytest.raises(ModelFilesInvalid, match="which is outside of it"):
            unpack(archive, folder, silent)
    assert list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "a.zip", "unpacked"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_a_tar_holds_plain_files_only(kind: bytes, folder: Path, tmp_path: Path, silent: Report) -> None:
    archive = tar_of(tmp_path / "a.tar", tar_entry("way", kind, "/etc"), tar_entry("way/passwd"))
    with pytest.raises(ModelFilesInvalid, match="no plain file but a link or device"):
        unpack(archive, folder, silent)
    assert list(folder.iterdir()) == []


def test_a_zip_holds_plain_files_only(folder: Path, tmp_path: Path, silent: Report) -> None:
    link = zipfile.ZipInfo("way")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ModelFilesInvalid, match="no plain file but a link"):
        unpack(zip_of(tmp_path / "a.zip", (link, b"/etc")), folder, silent)


def test_a_file_cannot_come_twice(folder: Path, tmp_path: Path, silent: Report) -> None:
    archive = tar_of(tmp_path / "a.tar", tar_entry("config.json"), tar_entry("CONFIG.json"))
    with pytest.raises(ModelFilesInvalid, match="twice"):
        unpack(archive, folder, silent)


def test_what_grows_without_measure_is_refused(folder: Path, tmp_path: Path, silent: Report) -> None:
    zeros = bytes(archive_module.SMALL_BYTES + 1)
    for archive in (
        zip_of(tmp_path / "a.zip", ("zeros", zeros)),
        tar_of(tmp_path / "a.tar.gz", tar_entry("zeros"), content=zeros),
    ):
        with pytest.raises(ModelFilesInvalid, match="would grow to more than"):
            unpack(archive, folder, silent)
    assert list(folder.iterdir()) == []


def test_a_zip_that_lies_about_a_size_is_refused(folder: Path, tmp_path: Path, silent: Report) -> None:
    archive = zip_of(tmp_path / "a.zip", ("text", b"a" * 1000))
    content = archive.read_bytes()
    archive.write_bytes(content.replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(ModelFilesInvalid, match=r"cannot be unpacked|claims"):
        unpack(archive, folder, silent)


def test_more_than_the_disk_holds_is_refused(folder: Path, tmp_path: Path, silent: Report) -> None:
    archive = zip_of(tmp_path / "a.zip", ("text", b"a" * 1000))
    content = archive.read_bytes()
    more = min(shutil.disk_usage(tmp_path).free + (1 << 20), (1 << 32) - 2)
    archive.write_bytes(content.replace((1000).to_bytes(4, "little"), more.to_bytes(4, "little")))
    with pytest.raises(ModelStoreError):
        unpack(archive, folder, silent)


def test_content_within_one_folder_is_found(folder: Path, tmp_path: Path, silent: Report) -> None:
    archive = zip_of(tmp_path / "a.zip", ("a/b/config.json", b"{}"), ("a/b/1_Pooling/config.json", b"{}"))
    assert unpack(archive, folder, silent) == folder / "a" / "b"


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_damaged_archive_is_unpacked_or_refused(kind: str, tmp_path: Path, silent: Report) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        zip_of(path, ("folder/one", b"content" * 50), ("folder/two", b"x"))
    else:
        tar_of(path, tar_entry("folder/one"), tar_entry("folder/two"), content=b"content" * 50)
    sound = path.read_bytes()

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, len(sound) - 1), st.binary(max_size=3), st.booleans())
    def damage(at: int, bytes_there: bytes, cut: bool) -> None:
        path.write_bytes(sound[:at] + bytes_there + (b"" if cut else sound[at + len(bytes_there) :]))
        folder = tmp_path / "unpacked"
        folder.mkdir()
        try:
            unpack(path, folder, silent)
        except ModelStoreError:
            pass
        finally:
            shutil.rmtree(folder)

    damage()
