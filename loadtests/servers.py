"""The servers under test, as child processes: started on a free port, ready when handed out, stopped with SIGTERM.

They run in the repository, so every path must be absolute.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]

from gateway.model_store.sources import read_source
from loadtests.cache_folder import empty_cache_folder, kept_in
from loadtests.model_folder import REPOSITORY
from loadtests.streaming_client import ChatRequest, ChatStream, Message

START_SECONDS = 300  # a first start may import the demo model
STOP_SECONDS = 15
POLL_SECONDS = 0.1
GATEWAY = "gateway"
MLX_LM = "mlx_lm"


class ServerFailed(Exception):
    """A server did not start or stop as it should; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Server:
    """A running server; `model` is the id its clients use."""

    name: str
    base_url: str
    model: str
    process: asyncio.subprocess.Process
    log_file: Path

    def client(self) -> httpx.AsyncClient:
        """For any number of streams at once, however long they are silent."""
        return httpx.AsyncClient(base_url=self.base_url, timeout=None, limits=httpx.Limits(), trust_env=False)

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def cpu_seconds(self) -> float:
        """What it has used so far, on all cores."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    async def stop(self) -> int:
        """Sends SIGTERM unless it has ended, and returns the exit status; raises `ServerFailed` if it goes on."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            raise self.failure(f"still ran {STOP_SECONDS} s after SIGTERM") from None

    async def kill(self) -> None:
        """Ends it with SIGKILL, which no process notices."""
        self.process.kill()
        await self.process.wait()

    def failure(self, what: str) -> ServerFailed:
        last_lines = "\n".join(self.log().splitlines()[-20:])
        return ServerFailed(f"{self.name} {what}. The end of its log:\n{last_lines}")


@asynccontextmanager
async def gateway_server(
    model: str, store: Path, settings: Mapping[str, str] | None = None, options: Sequence[str] = ()
) -> AsyncIterator[Server]:
    """The gateway; `model` is what `--model` takes ("" is the demo model), `settings` are environment variables,
    `options` more of the command line, such as other models.

    Unless they say otherwise, it begins with an empty prefix cache.
    """
    port = _free_port()
    command = ("gateway", "serve", "--model", model, "--port", str(port), *options)
    with empty_cache_folder(store) as folder:
        environment = {**kept_in(folder), **(settings or {})}
        async with _child(GATEWAY, command, port, read_source(model).model_id, store, environment) as server:
            await _answers(server, "/health/ready")
            yield server


@asynccontextmanager
async def upstream_gateway(model: str, url: str, store: Path) -> AsyncIterator[Server]:
    """A gateway whose only model runs on the server with the base URL `url`."""
    port = _free_port()
    file = store / "config.toml"
    file.write_text(f'[[models]]\nid = "{model}"\nupstreams = ["{url}"]\n')
    command = ("gateway", "serve", "--config", str(file), "--port", str(port))
    async with _child(GATEWAY, command, port, model, store, {}) as server:
        await _answers(server, "/health/ready")
        yield server


@asynccontextmanager
async def mlx_lm_server(folder: Path, store: Path) -> AsyncIterator[Server]:
    """mlx_lm.server with its defaults, which batch."""
    port = _free_port()
    command = ("loadtests.mlx_lm_server", "--model", str(folder), "--port", str(port))
    async with _child(MLX_LM, command, port, "default_model", store, {}) as server:
        await _answers(server, "/health")
        async with server.client() as client:  # it calls itself healthy before the model is loaded
            await ChatStream().receive(client, ChatRequest(server.model, [Message("user", "Hello")], max_tokens=1))
        yield server


@asynccontextmanager
async def _child(
    name: str, command: tuple[str, ...], port: int, model: str, store: Path, settings: Mapping[str, str]
) -> AsyncIterator[Server]:
    environment = {**os.environ, "MLX_GATEWAY_STORE_DIRECTORY": str(store), **settings}
    with tempfile.TemporaryDirectory(prefix="mlx-gateway-loadtest-") as directory:
        log_file = Path(directory) / "server.log"
        with log_file.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=REPOSITORY,
            )
        server = Server(name, f"http://127.0.0.1:{port}", model, process, log_file)
        try:
            yield server
            await server.stop()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _answers(server: Server, path: str) -> None:
    """Returns when GET `path` gives 200."""
    async with server.client() as client, asyncio.timeout(START_SECONDS):
        while server.process.returncode is None:
            try:
                if (await client.get(path)).is_success:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            await asyncio.sleep(POLL_SECONDS)
    raise server.failure(f"ended with status {server.process.returncode} before it was ready")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
