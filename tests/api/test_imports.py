"""Models that arrive over HTTP: by a path on the server's disk, and in chunks that go on where they broke off."""

import hashlib
import json
import os
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.model_store.manifest import Manifest, read_manifest
from gateway.model_store.store_folders import StoreFolders
from gateway.model_store.upload_folder import STALE_SECONDS
from tests.conftest import Server, running_server

CHUNK = 1 << 20
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("import-store")


@pytest.fixture(scope="module")
def server(store: Path, tiny_folder: Path) -> Iterator[Server]:
    limit = str(2 * CHUNK)
    model = ("--model", str(tiny_folder))
    with running_server(store, *model, SERVER_MAX_BODY_BYTES=limit, POOL_SERVE_STORED="true") as server:
        yield server


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> bytes:
    """A zip of the tiny model, stored as it is: 25 MB."""
    path = tmp_path_factory.mktemp("archive") / "packed.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name in FILES:
            packed.write(tiny_folder / name, f"packed/{name}")
    return path.read_bytes()


def manifest_of(store: Path, model_id: str) -> Manifest:
    return read_manifest(StoreFolders(store).model(model_id))


def announce(http: httpx.Client, name: str, content: bytes, **further: str) -> str:
    answer = http.post("/admin/uploads", json={"name": name, "size_bytes": len(content), **further})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/admin/uploads/{answer.json()['id']}"
    return str(answer.json()["id"])


def offset_of(http: httpx.Client, upload: str) -> int:
    answer = http.head(f"/admin/uploads/{upload}")
    assert (answer.status_code, answer.content) == (200, b"")
    return int(answer.headers["upload-offset"])


def patch(http: httpx.Client, upload: str, offset: int, chunk: bytes) -> httpx.Response:
    return http.patch(f"/admin/uploads/{upload}", content=chunk, headers={"Upload-Offset": str(offset)})


def send(http: httpx.Client, upload: str, content: bytes) -> dict[str, Any]:
    """In chunks, from where it is; the last answer."""
    answer: dict[str, Any] = {}
    offset = offset_of(http, upload)
    while offset < len(content):
        response = patch(http, upload, offset, content[offset : offset + CHUNK])
        assert response.status_code == 200, response.text
        answer = response.json()
        offset = answer["offset"]
    return answer


def outcome(http: httpx.Client, import_id: str) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/admin/imports/{import_id}?wait_seconds=60").json()
    assert job["state"] in ("done", "failed", "cancelled"), job
    return job


def test_a_path_is_imported(http: httpx.Client, store: Path, tiny_folder: Path) -> None:
    answer = http.post("/admin/imports", json={"path": str(tiny_folder), "id": "by-path"})
    assert answer.status_code == 202
    job = outcome(http, answer.json()["id"])
    assert (job["state"], job["result"]["model"]) == ("done", "by-path"), job
    assert job["result"]["checked"] == ["headers", "tokenizer", "shapes", "forward pass"]
    assert manifest_of(store, "by-path").source.location == str(tiny_folder)
    assert job["id"] in [listed["id"] for listed in http.get("/admin/imports").json()["jobs"]]


def test_an_import_is_watched(http: httpx.Client, tiny_folder: Path) -> None:
    import_id = http.post("/admin/imports", json={"path": str(tiny_folder), "id": "watched"}).json()["id"]
    with http.stream("GET", f"/admin/imports/{import_id}/events") as answer:
        states = [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]
    assert [state["fraction"] for state in states] == sorted(state["fraction"] for state in states)
    assert len(states) > 2
    assert (states[-1]["state"], states[-1]["result"]["model"]) == ("done", "watched")


def test_a_cancelled_import_leaves_nothing(http: httpx.Client, store: Path, tiny_folder: Path) -> None:
    import_id = http.post("/admin/imports", json={"path": str(tiny_folder), "id": "cancelled"}).json()["id"]
    assert http.delete(f"/admin/imports/{import_id}").status_code == 200
    assert outcome(http, import_id)["state"] == "cancelled"
    assert not (store / "models" / "cancelled").exists()
    assert not (store / "incoming" / "cancelled").exists()


def test_an_uploaded_archive_is_imported_and_served(http: httpx.Client, store: Path, archive: bytes) -> None:
    upload = announce(http, "packed.zip", archive, sha256=hashlib.sha256(archive).hexdigest())
    last = send(http, upload, archive)
    job = outcome(http, last["import_id"])

    assert (job["state"], job["result"]["model"]) == ("done", "packed"), job
    assert manifest_of(store, "packed").source.location == "uploaded packed.zip"
    assert http.get(f"/admin/uploads/{upload}").status_code == 404
    assert [path.name for path in (store / "uploads").iterdir() if path.name.startswith("gathered-")] == []
    asked = {"model": "packed", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    assert http.post("/v1/chat/completions", json=asked).status_code == 200


def test_files_dropped_together_make_one_model(http: httpx.Client, store: Path, tiny_folder: Path) -> None:
    uploads = {}
    for name in FILES:
        content = (tiny_folder / name).read_bytes()
        uploads[name] = announce(http, name, content, batch="dropped")
        if name != "model.safetensors":
            assert send(http, uploads[name], content)["import_id"] is None
    early = http.post("/admin/imports", json={"batch": "dropped"})
    assert (early.status_code, "model.safetensors is not uploaded yet" in early.text) == (400, True)
    send(http, uploads["model.safetensors"], (tiny_folder / "model.safetensors").read_bytes())

    job = outcome(http, http.post("/admin/imports", json={"batch": "dropped", "id": "together"}).json()["id"])

    assert (job["state"], job["result"]["model"]) == ("done", "together"), job
    assert set(manifest_of(store, "together").files) == set(FILES)
    assert http.get("/admin/uploads").json()["uploads"] == []


def send_a_part(server: Server, upload: str, offset: int, claimed_bytes: int, part: bytes) -> socket.socket:
    """Begins a chunk; the connection is the caller's to break off."""
    host, port = server.url.removeprefix("http://").split(":")
    head = f"PATCH /admin/uploads/{upload} HTTP/1.1\r\nHost: {host}\r\nUpload-Offset: {offset}\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head.encode() + f"Content-Length: {claimed_bytes}\r\n\r\n".encode() + part)
    return connection


def wait_until_longer(http: httpx.Client, upload: str, than_bytes: int) -> int:
    deadline = time.monotonic() + 30
    while (offset := offset_of(http, upload)) <= than_bytes and time.monotonic() < deadline:
        pass
    return offset


@contextmanager
def serving(store: Path, model: Path) -> Iterator[tuple[Server, httpx.Client]]:
    with (
        running_server(store, "--model", str(model)) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield server, client


def test_an_upload_survives_the_servers_death(tmp_path: Path, tiny_folder: Path, archive: bytes) -> None:
    """Killed in the middle of a chunk, and again when the import has begun."""
    store = tmp_path / "store"
    with serving(store, tiny_folder) as (server, http):
        upload = announce(http, "packed.zip", archive)
        assert patch(http, upload, 0, archive[: 3 * CHUNK]).status_code == 200
        with send_a_part(server, upload, 3 * CHUNK, 4 * CHUNK, archive[3 * CHUNK : 5 * CHUNK]):
            wait_until_longer(http, upload, 3 * CHUNK)
            server.kill()
    arrived = (store / "uploads" / upload / "content").stat().st_size
    assert 3 * CHUNK < arrived <= 5 * CHUNK

    with serving(store, tiny_folder) as (server, http):
        assert offset_of(http, upload) == arrived
        assert send(http, upload, archive)["import_id"]
        server.kill()

    with serving(store, tiny_folder) as (_server, http):
        (job,) = http.get("/admin/imports").json()["jobs"]
        job = outcome(http, job["id"])
        assert (job["state"], job["result"]["model"]) == ("done", "packed"), job
        assert http.get("/admin/uploads").json()["uploads"] == []


def test_what_broke_off_goes_on(http: httpx.Client, server: Server, store: Path, archive: bytes) -> None:
    """A client that leaves within a chunk: what came of it is kept."""
    upload = announce(http, "cut.zip", archive)
    with send_a_part(server, upload, 0, 2 * CHUNK, archive[: 3 * CHUNK // 2]):
        assert wait_until_longer(http, upload, 0) >= CHUNK
        assert patch(http, upload, offset_of(http, upload), b"x").status_code == 409  # it is being written to
    while patch(http, upload, offset_of(http, upload), b"").status_code == 409:
        pass

    arrived = offset_of(http, upload)

    assert CHUNK <= arrived <= 3 * CHUNK // 2
    assert (store / "uploads" / upload / "content").read_bytes() == archive[:arrived]
    assert http.delete(f"/admin/uploads/{upload}").status_code == 204


def test_a_wrong_offset_is_told_the_right_one(http: httpx.Client) -> None:
    upload = announce(http, "a.zip", bytes(100))
    assert patch(http, upload, 0, bytes(10)).json()["offset"] == 10
    for offset in (0, 11, 100):
        answer = patch(http, upload, offset, bytes(10))
        assert (answer.status_code, answer.headers["upload-offset"]) == (409, "10")
    too_much = patch(http, upload, 10, bytes(91))
    assert (too_much.status_code, "announced with 100 bytes" in too_much.text) == (400, True)
    assert patch(http, upload, 10, bytes(3 * CHUNK)).status_code == 413
    assert http.patch(f"/admin/uploads/{upload}", content=b"x").status_code == 400
    assert offset_of(http, upload) == 10
    http.delete(f"/admin/uploads/{upload}")


def test_other_bytes_than_announced_are_refused(http: httpx.Client) -> None:
    upload = announce(http, "a.zip", bytes(100), sha256="0" * 64)
    answer = patch(http, upload, 0, bytes(100))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "sha256")
    assert http.get(f"/admin/uploads/{upload}").status_code == 404


def test_what_is_no_model_fails_with_its_reason_and_stays(http: httpx.Client, store: Path) -> None:
    upload = announce(http, "junk.zip", b"no archive")
    job = outcome(http, send(http, upload, b"no archive")["import_id"])
    assert job["state"] == "failed"
    assert job["error"].startswith("junk.zip: cannot be unpacked")
    assert http.get(f"/admin/uploads/{upload}").json()["failed"] == job["error"]
    assert not (store / "models" / "junk").exists()
    http.delete(f"/admin/uploads/{upload}")


@pytest.mark.parametrize(
    "name", ["", "../a", "/a", ".hidden", "a/../b", "a\\b", "a/b/c", "a\n", "x" * 201, "a//b", "a/"]
)
def test_a_name_is_a_files_name(http: httpx.Client, name: str) -> None:
    answer = http.post("/admin/uploads", json={"name": name, "size_bytes": 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")


def test_more_than_the_disk_holds_is_refused_at_once(http: httpx.Client, store: Path) -> None:
    answer = http.post("/admin/uploads", json={"name": "a.zip", "size_bytes": shutil.disk_usage(store).free})
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "path"),
        ({"path": "/a", "batch": "b"}, "path"),
        ({"path": "/no/such/file"}, "path"),
        ({"batch": "unknown"}, "batch"),
        ({"paht": "/a"}, None),
    ],
)
def test_a_wrong_request_is_explained(http: httpx.Client, body: dict[str, str], param: str | None) -> None:
    answer = http.post("/admin/imports", json=body)
    assert answer.status_code == 400
    assert param in (None, answer.json()["error"]["param"])


def test_only_the_operator_may(http: httpx.Client) -> None:
    foreign = {"origin": "https://elsewhere.example"}
    for method, path in (
        ("POST", "/admin/imports"),
        ("GET", "/admin/imports"),
        ("GET", "/admin/imports/x"),
        ("GET", "/admin/imports/x/events"),
        ("POST", "/admin/uploads"),
        ("GET", "/admin/uploads"),
        ("GET", "/admin/uploads/x"),
        ("PATCH", "/admin/uploads/x"),
        ("DELETE", "/admin/uploads/x"),
    ):
        assert http.request(method, path, headers=foreign).status_code == 403, path


@pytest.mark.parametrize("upload", ["x", "..%2fx", "%2e%2e", "0" * 32, "é"])
def test_an_unknown_upload_is_not_found(http: httpx.Client, upload: str) -> None:
    assert http.get(f"/admin/uploads/{upload}").status_code == 404


def test_stale_uploads_are_removed_at_the_next_start(tmp_path: Path, tiny_folder: Path) -> None:
    store = tmp_path / "store"
    for name, age in (("old", STALE_SECONDS + 60), ("new", STALE_SECONDS - 600)):
        folder = store / "uploads" / name
        folder.mkdir(parents=True)
        (folder / "note.json").write_text(json.dumps({"name": "a.zip", "size_bytes": 10}))
        (folder / "content").write_bytes(b"part")
        os.utime(folder / "content", (time.time() - age, time.time() - age))
    with running_server(store, "--model", str(tiny_folder)) as server:
        deadline = time.monotonic() + 30
        while (store / "uploads" / "old").exists() and time.monotonic() < deadline:
            httpx.get(f"{server.url}/health/live")
        listed = httpx.get(f"{server.url}/admin/uploads").json()["uploads"]
    assert [upload["id"] for upload in listed] == ["new"]
