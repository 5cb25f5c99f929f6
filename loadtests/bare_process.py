"""`loadtests.bare` as a child process that stays up, as the servers do, and is idle while they have their turn."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from loadtests.bare import Generated, Hello, Work
from loadtests.model_folder import REPOSITORY
from loadtests.servers import ServerFailed

BARE = "bare"
LINE_BYTES = 16 * 1024 * 1024


class Bare:
    """One at a time may ask."""

    name = BARE

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.blas = ""

    def cpu_seconds(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    async def hello(self) -> None:
        self.blas = msgspec.json.decode(await self._line(), type=Hello).blas

    async def generate(self, work: Work) -> Generated:
        assert self._process.stdin
        self._process.stdin.write(msgspec.json.encode(work) + b"\n")
        return msgspec.json.decode(await self._line(), type=Generated)

    async def _line(self) -> bytes:
        assert self._process.stdout
        line = await self._process.stdout.readline()
        if not line:
            raise ServerFailed(f"mlx-lm without a server ended with status {await self._process.wait()}; see above.")
        return line


@asynccontextmanager
async def bare(folder: Path, store: Path) -> AsyncIterator[Bare]:
    """Ready to generate with the model in `folder`; its errors go to this process's stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadtests.bare",
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "MLX_GATEWAY_STORE_DIRECTORY": str(store)},
        cwd=REPOSITORY,
        limit=LINE_BYTES,
    )
    child = Bare(process)
    try:
        await child.hello()
        yield child
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
