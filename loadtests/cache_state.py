"""What a gateway says of its prefix cache, by GET /admin/cache."""

import asyncio
import time

import httpx
import msgspec
from msgspec import Struct, field

from loadtests.servers import Server
from loadtests.turns import UnusableRun

PATH = "/admin/cache"
WRITTEN_WITHIN_SECONDS = 120
POLL_SECONDS = 0.1
QUIET_POLLS = 3


class RamState(Struct, frozen=True):
    bytes: int
    limit_bytes: int
    evicted: int = 0


class DiskState(Struct, frozen=True):
    """`waiting_bytes` are still to be written; `removed` counts the files that were of no use, by reason."""

    bytes: int
    limit_bytes: int
    files: int
    waiting_bytes: int
    dropped: int = 0
    removed: dict[str, int] = {}


NO_DISK = DiskState(bytes=0, limit_bytes=0, files=0, waiting_bytes=0)


class CacheState(Struct, frozen=True):
    """`disk_tier` is None where nothing is written to disk."""

    ram: RamState
    disk_tier: DiskState | None = field(default=None, name="disk")

    @property
    def disk(self) -> DiskState:
        return self.disk_tier or NO_DISK


async def cache_state(server: Server) -> CacheState:
    """Raises `UnusableRun` if it does not say."""
    async with server.client() as client:
        return msgspec.json.decode(await _asked(client, server, "GET"), type=CacheState)


async def clear_cache(server: Server) -> None:
    """From now on nothing is known any more, in memory and on disk. Raises `UnusableRun`."""
    async with server.client() as client:
        await _asked(client, server, "DELETE")


async def written_to_disk(server: Server) -> CacheState:
    """Returns when the disk has all that it was given; raises `UnusableRun` if that takes minutes.

    What an answer's end hands over may be a moment late, so nothing must wait for several polls.
    """
    deadline = time.perf_counter() + WRITTEN_WITHIN_SECONDS
    quiet: list[DiskState] = []
    while time.perf_counter() < deadline:
        state = await cache_state(server)
        if state.disk.waiting_bytes or (quiet and state.disk.bytes != quiet[-1].bytes):
            quiet.clear()
        elif len(quiet) == QUIET_POLLS - 1:
            return state
        quiet.append(state.disk)
        await asyncio.sleep(POLL_SECONDS)
    raise UnusableRun(f"{server.name} still writes to its cache folder after {WRITTEN_WITHIN_SECONDS} s.")


async def _asked(client: httpx.AsyncClient, server: Server, method: str) -> bytes:
    try:
        response = await client.request(method, PATH)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise UnusableRun(f"{server.name} does not answer {method} {PATH}: {error!r}.") from error
    return response.content
