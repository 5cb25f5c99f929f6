"""Quantising a model over HTTP: a job, its end, and what can be wrong with asking for one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from gateway.model_store.store import ModelStore
from tests.conftest import StartServer


@pytest.fixture
async def on_own_store(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose store belongs to this test."""
    server = start_server("--model", str(tiny_folder), STORE_DIRECTORY=str(tmp_path / "store"))
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        yield client


async def over(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """The job at its end."""
    job: dict[str, Any] = (await client.get(f"/admin/jobs/{job_id}?wait_seconds=60", timeout=70)).json()
    return job


async def test_a_job_makes_a_model_of_the_store(on_own_store: httpx.AsyncClient, tmp_path: Path) -> None:
    answer = await on_own_store.post("/admin/models/tiny/quantize", json={"recipe": "mixed_2_6", "id": "small"})
    assert answer.status_code == 202
    assert (answer.json()["kind"], answer.json()["model"]) == ("quantize", "tiny")

    job = await over(on_own_store, answer.json()["id"])

    assert (job["state"], job["fraction"], job["error"]) == ("done", 1.0, "")
    assert job["result"]["model"] == "small"
    assert job["result"]["optimisation"]["recipe"] == "mixed_2_6:64"
    made = ModelStore(tmp_path / "store").locate("small", lambda _fraction, _doing: None)
    assert made.manifest
    assert made.manifest.optimisation
    assert job["result"]["optimisation"]["perplexity_after"] == made.manifest.optimisation.perplexity_after
    assert (await on_own_store.get("/admin/jobs")).json() == {"jobs": [job]}


async def test_a_cancelled_job_leaves_nothing(on_own_store: httpx.AsyncClient, tmp_path: Path) -> None:
    first = (await on_own_store.post("/admin/models/tiny/quantize", json={"bits": 4})).json()
    second = (await on_own_store.post("/admin/models/tiny/quantize", json={"bits": 8})).json()
    assert second["state"] == "waiting"

    await on_own_store.delete(f"/admin/jobs/{second['id']}")
    await on_own_store.delete(f"/admin/jobs/{first['id']}")

    assert [(await over(on_own_store, job["id"]))["state"] for job in (first, second)] == ["cancelled"] * 2
    assert list((tmp_path / "store" / "models").iterdir()) == []
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


async def test_a_server_that_stops_ends_its_jobs(start_server: StartServer, tiny_folder: Path, tmp_path: Path) -> None:
    server = start_server("--model", str(tiny_folder), STORE_DIRECTORY=str(tmp_path / "store"))
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        job = (await client.post("/admin/models/tiny/quantize", json={"bits": 4})).json()
        waiting = asyncio.create_task(over(client, job["id"]))
        await asyncio.to_thread(server.wait_for_log, f"job {job['id']}: measuring the model as it is")
        (optimiser,) = psutil.Process(server.process.pid).children()
        assert await asyncio.to_thread(server.stop) == 0
        assert (await waiting)["state"] == "cancelled"
    optimiser.wait(30)  # its words of progress reach nobody any more
    ModelStore(tmp_path / "store")
    assert list((tmp_path / "store" / "models").iterdir()) == list((tmp_path / "store" / "incoming").iterdir()) == []


async def test_a_failed_job_says_why(on_own_store: httpx.AsyncClient) -> None:
    job = (await on_own_store.post("/admin/models/tiny/quantize", json={"bits": 4, "id": "tiny"})).json()
    ended = await over(on_own_store, job["id"])
    assert ended["state"] == "failed"
    assert "cannot be called 'tiny'" in ended["error"]


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({}, "bits", "either bits"),
        ({"bits": 4, "recipe": "mixed_4_6"}, "bits", "either bits"),
        ({"bits": 7}, "bits", "2, 3, 4, 5, 6, 8 bits"),
        ({"bits": 4, "group_size": 48}, "bits", "32, 64, 128"),
        ({"recipe": "mixed_9_9"}, "recipe", "mixed_4_6"),
        ({"bits": 4, "colour": "red"}, None, "colour"),
        ({"bits": "4"}, "bits", "Expected"),
        ({"bits": 4, "id": "a\nb"}, "id", "printable"),
    ],
)
async def test_a_wrong_wish_is_refused(
    body: dict[str, object], field: str | None, told: str, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/admin/models/tiny/quantize", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field
    assert told in error["message"]


async def test_pruning_is_a_job_too(client: httpx.AsyncClient) -> None:
    answer = await client.post("/admin/models/tiny/prune", json={"layers": 2})
    assert answer.status_code == 202
    job = await over(client, answer.json()["id"])
    assert (job["kind"], job["state"]) == ("prune", "failed")
    assert "2 of its 2 layers cannot go. Ask for 1 to 1." in job["error"]
    answer = await client.post("/admin/models/tiny/prune", json={"layers": 0})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "layers")


async def test_what_is_not_there_is_told(client: httpx.AsyncClient) -> None:
    answer = await client.post("/admin/models/huge/quantize", json={"bits": 4})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    answer = await client.get("/admin/jobs/none")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "id")


@pytest.mark.parametrize("seconds", ["-1", "301", "1e9", "x", "\u0663", "9" * 5000])
async def test_a_wait_of_no_length_is_refused(seconds: str, client: httpx.AsyncClient) -> None:
    job = (await client.post("/admin/models/tiny/quantize", json={"bits": 4, "id": "tiny"})).json()
    answer = await client.get(f"/admin/jobs/{job['id']}", params={"wait_seconds": seconds})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "wait_seconds")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/admin/models/tiny/quantize"), ("GET", "/admin/jobs"), ("DELETE", "/admin/jobs/x")]
)
async def test_web_pages_may_not(method: str, path: str, client: httpx.AsyncClient) -> None:
    answer = await client.request(method, path, headers={"origin": "https://example.org"})
    assert answer.status_code == 403
