"""Three models in memory for two, each with clients that ask again as soon as they were answered."""

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx

from loadtests.figure import Measured, at_least, at_most, median_of
from loadtests.servers import Server, gateway_server
from loadtests.turns import UnusableRun

NAMES = ("first", "second", "third")
CLIENTS = 8
SECONDS = 60
ANSWER_TOKENS = 16
ROOM = 2.7
"""What there is of memory, in models: two, and what their requests take."""


class Round:
    """Waits are of whole requests, in seconds, by model."""

    def __init__(self) -> None:
        self.waits: dict[str, list[float]] = {name: [] for name in NAMES}
        self.failures: list[str] = []
        self.loads = 0.0

    @property
    def all_waits(self) -> list[float]:
        return [wait for waits in self.waits.values() for wait in waits]


async def measure(folder: Path, store: Path, rounds: int) -> Measured:
    """`folder` is the model in float32."""
    settings = {"MLX_GATEWAY_HARDWARE_MEMORY_BYTES": str(int(ROOM * _weight_bytes(folder)))}
    with _copies(folder, store) as (first, *others):
        options = [part for other in others for part in ("--model", str(other))]
        async with gateway_server(str(first), store, settings, options) as server:
            made = [await _round(server) for _ in range(rounds)]
    fewest = [min(map(len, each.waits.values())) / max(map(len, each.waits.values())) for each in made]
    longest = [max(each.all_waits) for each in made]
    return Measured(
        [
            median_of("requests that failed", [float(len(each.failures)) for each in made], at_most(0)),
            median_of("requests of the model served least / most", fewest, at_least(0.5)),
            median_of("longest wait for an answer, s", longest, at_most(SECONDS)),
            median_of("95 of 100 waited less than, s", [quantiles(each.all_waits, n=20)[-1] for each in made]),
            median_of("median wait, s", [median(each.all_waits) for each in made]),
            median_of("loads", [each.loads for each in made]),
        ],
        [f"{len(NAMES)} models, {CLIENTS} clients each for {SECONDS} s; {each.failures[:1]}" for each in made],
    )


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


async def _round(server: Server) -> Round:
    result, end = Round(), time.monotonic() + SECONDS
    async with server.client() as client:
        loads = await _loads(client)

        async def ask(name: str) -> None:
            body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": f"Tell me of {name}."}]}
            while time.monotonic() < end:
                began = time.monotonic()
                answer = await client.post("/v1/chat/completions", json=body | {"max_tokens": ANSWER_TOKENS})
                result.waits[name].append(time.monotonic() - began)
                if answer.status_code != 200:
                    result.failures.append(answer.text)

        try:
            await asyncio.gather(*(ask(name) for name in NAMES for _ in range(CLIENTS)))
        except httpx.HTTPError as error:
            raise UnusableRun(f"{server.name} failed: {error!r}.") from error
        result.loads = await _loads(client) - loads
    return result


async def _loads(client: httpx.AsyncClient) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("mlx_gateway_model_loads_total{"))


@contextmanager
def _copies(folder: Path, store: Path) -> Iterator[list[Path]]:
    """The model under three names, without its bytes a second time."""
    copies = [store / "contention" / name for name in NAMES]
    try:
        for copy in copies:
            shutil.copytree(folder, copy, copy_function=os.link)
        yield copies
    finally:
        shutil.rmtree(store / "contention", ignore_errors=True)
