"""Downloads that a server is asked for over HTTP, from a hub on loopback."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server, running_server
from tests.model_store.hub_files import FILES, WEIGHTS
from tests.model_store.hub_server import COMMIT, HubServer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer({f"org/{name}": dict(FILES) for name in ("one", "two", "three")}) as server:
        yield server
        server.shutdown()


@pytest.fixture
def held(hub: HubServer) -> Iterator[threading.Event]:
    """No weights arrive in full until it is set."""
    free = threading.Event()

    def hold(name: str, _start: int, end: int) -> int:
        if name == "model.safetensors":
            free.wait(20)
        return end

    hub.cut_next = hold
    yield free
    free.set()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def settings(hub: HubServer) -> dict[str, Any]:
    return {"DOWNLOADS_ENDPOINT": hub.endpoint, "DOWNLOADS_DISK_FREE_BYTES": "0", "DOWNLOADS_MAX_AT_ONCE": "2"}


@pytest.fixture
def server(store: Path, tiny_folder: Path, settings: dict[str, Any]) -> Iterator[Server]:
    with running_server(store, "--model", str(tiny_folder), ready=False, **settings) as server:
        yield server


def post(server: Server, **body: Any) -> Any:
    answer = httpx.post(f"{server.url}/admin/downloads", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def states(server: Server, download_id: str) -> Iterator[Any]:
    """From its events."""
    with httpx.stream("GET", f"{server.url}/admin/downloads/{download_id}/events", timeout=30) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_a_download_is_watched_to_its_end(server: Server, store: Path) -> None:
    download = post(server, model="org/one")
    seen = list(states(server, download["id"]))

    assert seen[-1]["state"] == "done"
    assert seen[-1]["version"].startswith(COMMIT[:12])
    assert [state["fraction"] for state in seen] == sorted(state["fraction"] for state in seen)
    folder = store / "models" / "org%2Fone" / seen[-1]["version"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert httpx.get(f"{server.url}/admin/downloads").json() == {"downloads": [seen[-1]]}
    assert httpx.get(f"{server.url}/admin/downloads/{download['id']}").json() == seen[-1]
    assert list((store / "downloads").iterdir()) == []


def test_a_few_go_on_at_once_and_one_that_waits_can_be_cancelled(server: Server, held: threading.Event) -> None:
    one, two, three = (post(server, model=f"org/{name}") for name in ("one", "two", "three"))
    for running in (one, two):
        next(state for state in states(server, running["id"]) if state["doing"].startswith("downloading"))
    assert next(states(server, three["id"]))["state"] == "waiting"
    assert post(server, model="org/one")["id"] == one["id"]

    cancelled = httpx.delete(f"{server.url}/admin/downloads/{three['id']}").json()
    assert cancelled["state"] == "cancelled"
    threading.Timer(0.05, held.set).start()  # a thread that waits for bytes hears of it with the next ones
    assert httpx.delete(f"{server.url}/admin/downloads/{one['id']}", timeout=30).json()["state"] in (
        "cancelled",
        "done",
    )
    assert list(states(server, two["id"]))[-1]["state"] == "done"


def test_what_was_accepted_goes_on_after_a_kill(
    held: threading.Event, hub: HubServer, store: Path, tiny_folder: Path, settings: dict[str, Any]
) -> None:
    with running_server(store, "--model", str(tiny_folder), ready=False, **settings) as server:
        download = post(server, model="org/one", revision="main")
        next(state for state in states(server, download["id"]) if state["doing"].startswith("downloading"))
        server.kill()
    held.set()
    with running_server(store, "--model", str(tiny_folder), ready=False, **settings) as server:
        assert list(states(server, download["id"]))[-1]["state"] == "done"
    assert list((store / "downloads").iterdir()) == []


def test_a_stop_does_not_wait_for_a_download(
    held: threading.Event, store: Path, tiny_folder: Path, settings: dict[str, Any]
) -> None:
    with running_server(store, "--model", str(tiny_folder), ready=False, **settings) as server:
        download = post(server, model="org/one")
        watched = states(server, download["id"])
        next(state for state in watched if state["doing"].startswith("downloading"))
        assert server.stop() == 0
        assert {state["state"] for state in watched} <= {"running"}
    assert len(list((store / "downloads").iterdir())) == 1


def test_a_failure_is_told(server: Server) -> None:
    download = post(server, model="org/absent")
    (*_, last) = states(server, download["id"])
    assert last["state"] == "failed"
    assert "has no model org/absent" in last["doing"]


def test_mistakes_are_told(server: Server) -> None:
    for body, status, code in [
        ({"model": "no id"}, 400, "invalid_value"),
        ({"model": "org/one", "revision": "../x"}, 400, "invalid_value"),
        ({"model": 5}, 400, "invalid_value"),
        ({"model": "org/one", "trusted": True}, 400, "invalid_value"),
    ]:
        answer = httpx.post(f"{server.url}/admin/downloads", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/events")]:
        answer = httpx.request(method, f"{server.url}/admin/downloads/none{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "download_not_known")
    from_a_page = httpx.get(f"{server.url}/admin/downloads", headers={"origin": "http://elsewhere"})
    assert from_a_page.status_code == 403


def test_offline_nothing_is_accepted(hub: HubServer, store: Path, tiny_folder: Path, settings: dict[str, Any]) -> None:
    settings |= {"DOWNLOADS_OFFLINE": "true"}
    with running_server(store, "--model", str(tiny_folder), ready=False, **settings) as server:
        answer = httpx.post(f"{server.url}/admin/downloads", json={"model": "org/one"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "download_refused")
    assert hub.requests == []
