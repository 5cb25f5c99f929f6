"""Prefixes over restarts and crashes, on a real server."""

import os
from pathlib import Path
from typing import Any

import httpx

from tests.api.test_prefix_cache import LONG, ask, cached, chat
from tests.conftest import Server, StartServer


def on_disk(folder: Path, **more: str) -> dict[str, Any]:
    return {"CACHE_DIRECTORY": str(folder), "CACHE_DISK_BYTES": str(2**30), "CACHE_DISK_FREE_BYTES": "0", **more}


async def disk(client: httpx.AsyncClient) -> dict[str, Any]:
    use: dict[str, Any] = (await client.get("/admin/cache")).json()["disk"]
    return use


async def until_written(client: httpx.AsyncClient, files: int) -> None:
    """Each request lets the server do something, and the last one finds nothing that waits."""
    for _ in range(1000):
        use = await disk(client)
        if use["files"] >= files and not use["waiting_bytes"]:
            return
    raise AssertionError(f"not written: {use}")


def client_of(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=120)


async def test_a_killed_server_knows_its_prompts_after_a_restart(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    settings = on_disk(tmp_path / "prefixes")
    first = start_server("--model", str(tiny_folder), **settings)
    async with client_of(first) as client:
        answer = await ask(client, chat("Be brief.", LONG))
        await until_written(client, 1)
    first.kill()
    second = start_server("--model", str(tiny_folder), **settings)
    async with client_of(second) as client:
        again = await ask(client, chat("Be brief.", LONG))
        assert again.json()["choices"] == answer.json()["choices"]
        assert cached(again) == again.json()["usage"]["prompt_tokens"] - 1
        explained = (await client.get(f"/admin/cache/explain/{again.headers['x-request-id']}")).json()
        assert explained["from_disk"] == cached(again)
        metrics = (await client.get("/metrics")).text
        assert f'source="disk"}} {float(cached(again))}' in metrics


async def test_files_are_the_owners_alone(start_server: StartServer, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    server = start_server("--model", str(tiny_folder), **on_disk(folder))
    async with client_of(server) as client:
        await ask(client, chat("Be brief.", LONG))
        await until_written(client, 1)
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


async def test_spoiled_files_are_removed_and_the_answer_is_right(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "prefixes"
    first = start_server("--model", str(tiny_folder), **on_disk(folder))
    async with client_of(first) as client:
        answer = await ask(client, chat("Be brief.", LONG))
        await until_written(client, 1)
    assert first.stop() == 0
    files = sorted(folder.glob("*.kv"))
    for path in files:
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)
    second = start_server("--model", str(tiny_folder), **on_disk(folder))
    async with client_of(second) as client:
        again = await ask(client, chat("Be brief.", LONG))
        assert again.json()["choices"] == answer.json()["choices"]
        assert cached(again) == 0
        assert (await disk(client))["removed"]["corrupt"] > 0, "those that were read"
        assert 'removed_files_total{reason="corrupt"}' in (await client.get("/metrics")).text


async def test_encrypted_prefixes_hold_no_plain_tokens_and_need_their_key(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    folder, key = tmp_path / "prefixes", tmp_path / "key"
    settings = on_disk(folder, CACHE_ENCRYPT="true", CACHE_KEY_FILE=str(key))
    first = start_server("--model", str(tiny_folder), **settings)
    async with client_of(first) as client:
        await ask(client, chat("Be brief.", LONG))
        await until_written(client, 1)
    assert first.stop() == 0
    assert key.stat().st_mode & 0o777 == 0o600
    second = start_server("--model", str(tiny_folder), **settings)
    async with client_of(second) as client:
        again = await ask(client, chat("Be brief.", LONG))
        assert cached(again) == again.json()["usage"]["prompt_tokens"] - 1
    assert second.stop() == 0
    third = start_server("--model", str(tiny_folder), **on_disk(folder))
    async with client_of(third) as client:
        assert cached(await ask(client, chat("Be brief.", LONG))) == 0
        assert (await disk(client))["removed"]["foreign_key"] > 0


async def test_clearing_the_cache_removes_the_files(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "prefixes"
    server = start_server("--model", str(tiny_folder), **on_disk(folder))
    async with client_of(server) as client:
        await ask(client, chat("Be brief.", LONG))
        await until_written(client, 1)
        await client.delete("/admin/cache")
        assert cached(await ask(client, chat("Be brief.", LONG))) == 0


async def test_a_second_server_on_the_same_folder_keeps_to_memory(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    settings = on_disk(tmp_path / "prefixes")
    start_server("--model", str(tiny_folder), **settings)
    second = start_server("--model", str(tiny_folder), **settings)
    assert "in use by another process" in second.wait_for_log("prefixes are kept in memory only")
    async with client_of(second) as client:
        for tokens in (0, 1):
            assert bool(cached(await ask(client, chat("Be brief.", LONG)))) == bool(tokens)
