"""The next turn of a conversation after the model was evicted from memory and loaded again.

It is compared with another next turn of the same conversation and the same length, before that. The time to load is not
part of it.
"""

import asyncio
import time
from collections import defaultdict

from loadtests.cache_figures.bench import Bench
from loadtests.cache_figures.restart_kill import first_turn, following_turn
from loadtests.cache_folder import kept_in
from loadtests.cache_state import written_to_disk
from loadtests.figure import Measured, at_most, each, median_of, ratio, span
from loadtests.servers import Server
from loadtests.streaming_client import ChatStream
from loadtests.turns import UnusableRun

WARM = "warm"
LOADED_AGAIN = "evicted and loaded again"
LOAD_WITHIN_SECONDS = 120
POLL_SECONDS = 0.05


async def measure(bench: Bench) -> Measured:
    turns: dict[str, list[ChatStream]] = defaultdict(list)
    loads: list[float] = []
    for _ in range(bench.rounds):
        with bench.empty_cache_folder() as folder:
            async with bench.gateway(kept_in(folder)) as server:
                messages, answer = await first_turn(server)
                turns[WARM].append(await following_turn(server, messages, answer))
                await written_to_disk(server)
                loads.append(await _evict_and_load(server))
                turns[LOADED_AGAIN].append(await following_turn(server, messages, answer))
    seconds = {name: [turn.ttft_seconds for turn in of_name] for name, of_name in turns.items()}
    return Measured(
        [
            *each("TTFT of the next turn, s", seconds),
            ratio(seconds, LOADED_AGAIN, WARM, at_most(1.15)),
            median_of("from the request to evict until the model is ready again, s", loads),
        ],
        [
            f"{name}: prompts of {span([turn.prompt_tokens for turn in of_name])} tokens, of which "
            f"{span([turn.computed_tokens for turn in of_name])} were computed for this turn"
            for name, of_name in turns.items()
        ],
    )


async def _evict_and_load(server: Server) -> float:
    """Seconds from the one to the end of the other."""
    async with server.client() as client:
        began = time.perf_counter()
        for act in ("evict", "load"):
            (await client.post(f"/admin/models/{server.model}/{act}")).raise_for_status()
        while time.perf_counter() - began < LOAD_WITHIN_SECONDS:
            (model,) = (await client.get("/health/ready")).json()["models"]
            if model["state"] == "ready":
                return time.perf_counter() - began
            await asyncio.sleep(POLL_SECONDS)
    raise UnusableRun(f"{server.name} did not load its model again within {LOAD_WITHIN_SECONDS} s.")
