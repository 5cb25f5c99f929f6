"""How the server comes up, what it says meanwhile, and how it goes down."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.model_store.sources import demo_gguf
from tests.conftest import REPOSITORY, Server, StartServer
from tests.sse import read_stream

STORY: dict[str, Any] = {
    "model": "SmolLM2-135M-Instruct",
    "messages": [{"role": "user", "content": "Write a long story about a lighthouse."}],
    "temperature": 0,
}


def test_live_within_a_second_of_the_command(demo_store: Path) -> None:
    """Importing mlx-lm and loading the model happen behind the open port. The best of up to six starts counts."""
    seconds: list[float] = []
    while len(seconds) < 6 and min(seconds, default=9.0) >= 1.0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--port", str(port)],
            env=os.environ | {"MLX_GATEWAY_STORE_DIRECTORY": str(demo_store)},
            stderr=subprocess.DEVNULL,
            cwd=REPOSITORY,
        )
        try:
            while True:
                try:
                    assert httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).status_code == 200
                    break
                except httpx.ConnectError:
                    assert process.poll() is None
            seconds.append(time.perf_counter() - started)
            assert httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 503
        finally:
            process.kill()
            process.wait()
    assert min(seconds) < 1.0, seconds


async def test_requests_during_the_load_wait_and_are_answered(start_server: StartServer) -> None:
    server = start_server(ready=False)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        readiness = await client.get("/health/ready")
        assert readiness.status_code == 503
        (model,) = readiness.json()["models"]
        assert model["state"] in ("locating", "loading")
        assert model["doing"]
        stream = await read_stream(client, STORY | {"max_tokens": 3})
        assert stream.ended_with_done
        assert stream.text
        too_long = STORY | {"messages": [{"role": "user", "content": "word " * 9000}], "stream": True}
        assert (await client.post("/v1/chat/completions", json=too_long)).status_code == 400


async def test_a_stream_begins_although_the_load_goes_on(start_server: StartServer) -> None:
    """With no patience for the first event, keep-alives come at once and an error arrives inside the stream."""
    server = start_server(ready=False, SERVER_FIRST_EVENT_SECONDS="0", SERVER_KEEP_ALIVE_SECONDS="0.05")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        too_long = STORY | {"messages": [{"role": "user", "content": "word " * 9000}]}
        good, bad = await asyncio.gather(read_stream(client, STORY | {"max_tokens": 3}), read_stream(client, too_long))
    assert good.first == bad.first == ": keep-alive"
    assert good.comments > 3
    assert good.text
    assert good.ended_with_done
    assert bad.status == 200
    assert [error["code"] for error in bad.errors] == ["context_length_exceeded"]
    assert bad.ended_with_done


@asynccontextmanager
async def story(server: Server, max_tokens: int) -> AsyncIterator[tuple[httpx.AsyncClient, AsyncIterator[str]]]:
    """A client and the lines of its stream, from the one with the first token on."""
    body = STORY | {"max_tokens": max_tokens, "stream": True}
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        lines = response.aiter_lines()
        async for line in lines:
            if '"content":"' in line and '"content":""' not in line:
                break
        yield client, lines


async def test_sigterm_lets_a_request_finish_and_refuses_new_ones(start_server: StartServer) -> None:
    server = start_server(SERVER_SHUTDOWN_GRACE_SECONDS="60")
    async with story(server, max_tokens=40) as (client, lines):
        server.process.terminate()
        server.wait_for_log("stopping")
        refused = await client.post("/v1/chat/completions", json=STORY)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert (await client.get("/health/ready")).status_code == 503
        rest = [line async for line in lines if line.startswith("data: ")]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(timeout=30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_after_the_grace_period_clients_are_told(start_server: StartServer, number: signal.Signals) -> None:
    server = start_server(SERVER_SHUTDOWN_GRACE_SECONDS="0.1")
    async with story(server, max_tokens=4000) as (_, lines):
        server.process.send_signal(number)
        rest = [line async for line in lines if line.startswith("data: ")]
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
    assert rest[-1] == "data: [DONE]"
    assert server.process.wait(timeout=30) == 0


async def test_a_second_signal_ends_the_grace_period(start_server: StartServer) -> None:
    server = start_server(SERVER_SHUTDOWN_GRACE_SECONDS="600")
    async with story(server, max_tokens=4000) as (_, lines):
        server.process.terminate()
        server.wait_for_log("stopping")
        server.process.terminate()
        with suppress(httpx.RemoteProtocolError):
            async for _line in lines:
                pass
    assert server.process.wait(timeout=30) == 0


async def test_who_listens_to_events_does_not_hold_the_server_up(start_server: StartServer, tiny_folder: Path) -> None:
    server = start_server("--model", str(tiny_folder), SERVER_SHUTDOWN_GRACE_SECONDS="60")
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=100) as client,
        client.stream("GET", "/admin/events") as events,
        client.stream("GET", "/admin/logs?follow=true") as lines,
    ):
        both = events.aiter_lines(), lines.aiter_lines()
        assert [await anext(one) for one in both] == [": listening"] * 2
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        for one in both:
            async for _ in one:
                pass
        assert await asyncio.wait_for(stopping, 20) == 0


def test_sigterm_during_the_load_is_clean(start_server: StartServer) -> None:
    server = start_server(ready=False)
    assert server.stop() == 0, server.log


@pytest.mark.parametrize("damage", ["truncated weights", "no tokenizer", "foreign weights", "executable model"])
async def test_a_broken_model_is_said_and_the_server_lives(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    executed = tmp_path / "executed"
    match damage:
        case "truncated weights":
            weights = folder / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1000])
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
        case "foreign weights":
            (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
        case "executable model":
            (folder / "evil.py").write_text(f"open({str(executed)!r}, 'w')")
            (folder / "config.json").write_text(json.dumps(config | {"model_file": "evil.py"}))
    server = start_server("--model", str(folder), ready=False, may_log_traceback=True)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        response = await client.post("/v1/chat/completions", json=STORY | {"model": "broken"})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "model_unavailable"
        readiness = await client.get("/health/ready")
        assert readiness.status_code == 503
        assert readiness.json()["models"][0]["state"] == "failed"
        assert (await client.get("/health/live")).status_code == 200
        stream = await client.post("/v1/chat/completions", json=STORY | {"model": "broken", "stream": True})
        assert stream.status_code == 503
    assert not executed.exists()


async def test_a_gguf_file_is_served_under_its_name(start_server: StartServer) -> None:
    """The demo package's own file, given by path: imported once more under the file's name, with progress in
    the log."""
    server = start_server("--model", str(demo_gguf()), ready=False)
    server.wait_for_log(" is ready after ")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        (model,) = (await client.get("/v1/models")).json()["data"]
        assert model["id"] == demo_gguf().stem
        answer = await client.post("/v1/chat/completions", json=STORY | {"model": model["id"], "max_tokens": 3})
        assert answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "/no/such/folder"], "is no model"),
        (["--host", "0.0.0.0"], "allow_open_network"),
        (["--config", "/no/such/file.toml"], "Cannot read"),
    ],
)
def test_a_start_that_cannot_work_says_so_at_once(demo_store: Path, arguments: list[str], message: str) -> None:
    errors = refused_start(demo_store, "--port", "0", *arguments)
    assert message in errors
    assert "Traceback" not in errors


def test_a_taken_port_is_named(demo_server: Server, demo_store: Path) -> None:
    port = demo_server.url.rsplit(":", 1)[1]
    assert f"127.0.0.1:{port} is in use" in refused_start(demo_store, "--port", port)


def refused_start(store: Path, *arguments: str) -> str:
    """What a start that ends with status 2 says on standard error."""
    run = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", *arguments],
        env=os.environ | {"MLX_GATEWAY_STORE_DIRECTORY": str(store)},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        check=False,
    )
    assert run.returncode == 2
    return run.stderr
