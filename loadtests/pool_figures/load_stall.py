"""What a running stream feels of another model's load.

The stream is of the demo model with float32 weights. The other one is the demo model as it is stored, whose weights are
expanded to float32 while they are loaded.
"""

import asyncio
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import httpx

from gateway.model_store.sources import DEMO_MODEL_ID
from loadtests.figure import Measured, at_most, median_of, span
from loadtests.prompts import long_story
from loadtests.servers import Server, gateway_server
from loadtests.streaming_client import ChatRequest
from loadtests.turns import UnusableRun, running_stream

RUNNING_ANSWER_TOKENS = 4000  # more than can be generated before the other model is there
PIECES_BEFORE = 24
PIECES_AFTER = 2
LOAD_WITHIN_SECONDS = 120
POLL_SECONDS = 0.05


class Turn:
    """A load beside a running stream; times are seconds."""

    def __init__(self, times: list[float], began: float, ready: float, alone_seconds: float) -> None:
        gaps = list(pairwise(times))
        self.median_gap = median(later - earlier for earlier, later in gaps if later <= began)
        self.longest_gap = max(later - earlier for earlier, later in gaps if later > began and earlier < ready)
        self.pieces_meanwhile = sum(began < time < ready for time in times)
        self.alone_seconds = alone_seconds
        self.beside_seconds = ready - began


async def measure(folder: Path, store: Path, rounds: int) -> Measured:
    """`folder` is the model in float32."""
    async with gateway_server(str(folder), store, options=("--model", "")) as server:
        turns = [await _turn(server) for _ in range(rounds)]
    return Measured(
        [
            median_of(
                "longest gap of the stream / its median gap before",
                [turn.longest_gap / turn.median_gap for turn in turns],
                at_most(10),
            ),
            median_of("median gap before, ms", [1000 * turn.median_gap for turn in turns]),
            median_of("longest gap, ms", [1000 * turn.longest_gap for turn in turns]),
            median_of("the load alone, s", [turn.alone_seconds for turn in turns]),
            median_of("the load beside the stream, s", [turn.beside_seconds for turn in turns]),
        ],
        [f"meanwhile the stream got {span([turn.pieces_meanwhile for turn in turns])} pieces"],
    )


async def _turn(server: Server) -> Turn:
    request = ChatRequest(server.model, long_story(0), RUNNING_ANSWER_TOKENS)
    try:
        async with server.client() as client:
            await _evict(client)
            began, ready = await _load(client)
            alone_seconds = ready - began
            await _evict(client)
            async with running_stream(client, request) as running:
                await running.content(PIECES_BEFORE)
                began, ready = await _load(client)
                await running.content(len(running.content_times) + PIECES_AFTER)
    except httpx.HTTPError as error:
        raise UnusableRun(f"{server.name} failed: {error!r}.") from error
    if running.finish_reason or running.error_code or len(running.content_times) < PIECES_BEFORE:
        raise UnusableRun(f"The running stream ended too early, after {len(running.content_times)} pieces.")
    return Turn(running.content_times, began, ready, alone_seconds)


async def _evict(client: httpx.AsyncClient) -> None:
    (await client.post(f"/admin/models/{DEMO_MODEL_ID}/evict")).raise_for_status()


async def _load(client: httpx.AsyncClient) -> tuple[float, float]:
    """When it began and when the model was ready."""
    began = time.perf_counter()
    (await client.post(f"/admin/models/{DEMO_MODEL_ID}/load")).raise_for_status()
    while time.perf_counter() - began < LOAD_WITHIN_SECONDS:
        models = (await client.get("/health/ready")).json()["models"]
        if any(model["id"] == DEMO_MODEL_ID and model["state"] == "ready" for model in models):
            return began, time.perf_counter()
        await asyncio.sleep(POLL_SECONDS)
    raise UnusableRun(f"{DEMO_MODEL_ID} was not loaded within {LOAD_WITHIN_SECONDS} s.")
