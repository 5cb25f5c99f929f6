"""A turn of a benchmark: all clients at once at one server, while every other process of the benchmark is idle."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import httpx
import psutil  # type: ignore[import-untyped]

from loadtests.servers import Server
from loadtests.streaming_client import ChatRequest, ChatStream

STATED_BLAS = re.compile(r"OpenBLAS [\w.]+, \d+ threads|reference BLAS")  # in a log; nothing where mlx uses a GPU
QUIET_CORES = 0.1
QUIET_SECONDS = 0.5
QUIET_WITHIN_SECONDS = 120
COMMON_TOKENS = 32


class UnusableRun(Exception):
    """The figures would not say what they claim."""


class Process(Protocol):
    """One of the processes that take turns."""

    def cpu_seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class CpuClock:
    """Seconds so far: by the wall, and of CPU by the idle processes and by programs that have no part in this."""

    wall: float
    idle: float
    foreign: float

    @classmethod
    def read(cls, busy: Sequence[Process], idle: Sequence[Process]) -> "CpuClock":
        machine, client = psutil.cpu_times(), psutil.Process().cpu_times()
        used = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
        of_idle = sum(process.cpu_seconds() for process in idle)
        ours = of_idle + sum(process.cpu_seconds() for process in busy) + client.user + client.system
        return cls(time.perf_counter(), of_idle, used - ours)


APART_SECONDS = 0.01


async def all_at_once(server: Server, requests: Sequence[ChatRequest], *, least_pieces: int = 2) -> list[ChatStream]:
    """The streams, whole, each with at least so many pieces of content; else raises `UnusableRun`.

    They begin `APART_SECONDS` apart: mlx_lm.server cuts connections when more than five come in one moment.
    """
    streams = [ChatStream() for _ in requests]

    async def receive(index: int) -> None:
        await asyncio.sleep(index * APART_SECONDS)
        await streams[index].receive(client, requests[index])

    async with server.client() as client:
        receiving = (receive(index) for index in range(len(requests)))
        for failure in await asyncio.gather(*receiving, return_exceptions=True):
            if isinstance(failure, httpx.HTTPError):
                raise UnusableRun(f"{server.name} failed: {failure!r}.")
            if failure:
                raise failure
    for stream in streams:
        if not stream.done or stream.error_code or len(stream.content_times) < least_pieces:
            said = f"{len(stream.content_times)} pieces of content, error {stream.error_code}, [DONE] {stream.done}"
            raise UnusableRun(f"A stream of {server.name} cannot be measured: {said}.")
    return streams


@asynccontextmanager
async def running_stream(client: httpx.AsyncClient, request: ChatRequest) -> AsyncIterator[ChatStream]:
    """A stream that runs meanwhile; at the end the client disconnects from what is left of it."""
    stream = ChatStream()
    receiving = asyncio.create_task(stream.receive(client, request))
    try:
        yield stream
    finally:
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)


def require_cold(streams: Iterable[ChatStream]) -> None:
    """Raises `UnusableRun` if more of a prompt was known before than what a chat template begins every prompt with."""
    for stream in streams:
        if stream.cached_tokens > COMMON_TOKENS:
            raise UnusableRun(
                f"Of a prompt of {stream.prompt_tokens} tokens that was to be computed, {stream.cached_tokens} came "
                "from a cache."
            )


async def quiet(processes: Sequence[Process]) -> None:
    """Returns when they have nothing to do any more; raises `UnusableRun` if they go on for minutes."""
    deadline = time.perf_counter() + QUIET_WITHIN_SECONDS
    while time.perf_counter() < deadline:
        before = sum(process.cpu_seconds() for process in processes)
        await asyncio.sleep(QUIET_SECONDS)
        if sum(process.cpu_seconds() for process in processes) - before < QUIET_CORES * QUIET_SECONDS:
            return
    raise UnusableRun(f"A server that was asked nothing still computes after {QUIET_WITHIN_SECONDS} s.")


def same_blas(logs: Iterable[str]) -> str:
    """The library that every log names; raises `UnusableRun` if they differ."""
    named = [match[0] if (match := STATED_BLAS.search(log)) else "no BLAS of ours" for log in logs]
    if len(set(named)) > 1:
        raise UnusableRun(f"The servers use different BLAS libraries: {' and '.join(named)}.")
    return named[0]
