"""The versions of stored models over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.model_store.store_folders import StoreFolders
from tests.conftest import Server, running_server
from tests.model_store.small_versions import MODEL, NAME, number_of, publish_version


@pytest.fixture
def folders(tmp_path: Path) -> StoreFolders:
    return StoreFolders(tmp_path / "store")


@pytest.fixture
def server(folders: StoreFolders, tiny_folder: Path) -> Iterator[Server]:
    settings: dict[str, Any] = {"DOWNLOADS_OFFLINE": "true"}
    with running_server(folders.root, "--model", str(tiny_folder), ready=False, **settings) as server:
        yield server


def job(server: Server, answer: httpx.Response) -> Any:
    assert answer.status_code == 202
    return httpx.get(f"{server.url}/admin/jobs/{answer.json()['id']}?wait_seconds=30", timeout=60).json()


def test_versions_are_listed_switched_and_cleaned_up(server: Server, folders: StoreFolders) -> None:
    names = [publish_version(folders, number) for number in (1, 2, 3)]
    listed = httpx.get(f"{server.url}/admin/versions").json()["versions"]
    assert {version["name"] for version in listed} == set(names)
    assert httpx.get(f"{server.url}/admin/versions", params={"model": MODEL}).json()["versions"] == listed

    back = httpx.post(f"{server.url}/admin/models/{MODEL}/rollback")
    assert (back.json()["name"], back.json()["current"]) == (names[1], True)
    assert number_of(folders.model(NAME)) == 2
    chosen = httpx.post(f"{server.url}/admin/models/{MODEL}/rollback", json={"to": names[2]})
    assert chosen.json()["name"] == names[2]

    would = httpx.post(f"{server.url}/admin/versions/gc", json={"dry_run": True}).json()["removed"]
    assert [removed["what"] for removed in would] == [names[0]]
    assert httpx.post(f"{server.url}/admin/versions/gc").json()["removed"] == would
    assert len(httpx.get(f"{server.url}/admin/versions").json()["versions"]) == 2


def test_a_model_is_verified_by_a_job(server: Server, folders: StoreFolders) -> None:
    publish_version(folders, 1)
    (folders.model(NAME) / "config.json").write_text("x" * 100)
    done = job(server, httpx.post(f"{server.url}/admin/models/{MODEL}/verify"))
    assert [(one["damaged"], one["sound"]) for one in done["result"]] == [(["config.json"], False)]


def test_newer_versions_are_asked_for_by_a_job(server: Server, folders: StoreFolders) -> None:
    publish_version(folders, 1)
    done = job(server, httpx.post(f"{server.url}/admin/versions/outdated"))
    (update,) = done["result"]
    assert (update["model"], update["newest"]) == (MODEL, "")
    assert "downloads.offline is set" in update["problem"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "versions?model=absent", None, 404),
        ("POST", "models/absent/rollback", None, 404),
        ("POST", "models/absent/verify", None, 404),
        ("POST", "models/absent/rollback", {"to": 5}, 400),
        ("POST", "versions/gc", {"keep": -1}, 400),
    ],
)
def test_mistakes_are_told(server: Server, method: str, path: str, body: Any, status: int) -> None:
    answer = httpx.request(method, f"{server.url}/admin/{path}", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
