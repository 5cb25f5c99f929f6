"""Resident memory after several long conversations, more than the memory tier may hold."""

import asyncio

import psutil  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from loadtests.cache_figures.bench import Bench, ask, continued
from loadtests.cache_state import CacheState, written_to_disk
from loadtests.figure import Measured, at_most, median_of, worst_of
from loadtests.prompts import long_story, question
from loadtests.servers import Server
from loadtests.turns import UnusableRun, quiet

RAM_BYTES = 160 * 2**20
"""Less than the first two conversations need: one has 2,800 tokens of 46 kB."""

CONVERSATIONS = 4
HISTORY_TOKENS = 2500
NEW_TOKENS = 270
SAMPLE_SECONDS = 0.2
MEMORY_METRIC = "mlx_gateway_memory_bytes"
WEIGHTS, KV_CACHE = "weights", "kv_cache"


async def measure(bench: Bench) -> Measured:
    """Each round goes on with the same gateway: what grows and never shrinks shows."""
    shares, resident, highest = list[float](), list[int](), list[int]()
    async with bench.gateway({"MLX_GATEWAY_CACHE_RAM_BYTES": str(RAM_BYTES)}) as server:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        for _ in range(bench.rounds):
            highest.append(await _highest_while_they_talk(server, process))
            state = await written_to_disk(server)
            await quiet([server])
            held = await _held(server)
            resident.append(process.memory_info().rss)
            shares.append(resident[-1] / (held[WEIGHTS] + held[KV_CACHE] + RAM_BYTES))
            _require_overfull(state)
    return Measured(
        [
            worst_of("resident memory / (weights + KV in use + limit of the memory tier)", shares, at_most(1.2)),
            median_of("resident memory afterwards, MB", [_megabytes(count) for count in resident]),
            median_of("highest resident memory while they are served, MB", [_megabytes(count) for count in highest]),
        ],
        [
            f"{CONVERSATIONS} conversations of {HISTORY_TOKENS} + {NEW_TOKENS} tokens a round; "
            f"{_megabytes(RAM_BYTES):.0f} MB may be kept in memory, {_megabytes(held[WEIGHTS]):.0f} MB are weights; "
            f"before the first conversation {_megabytes(before):.0f} MB were resident",
            f"in the end {_megabytes(state.ram.bytes):.0f} MB were kept in memory, {_megabytes(state.disk.bytes):.0f} "
            f"MB on disk, and {_megabytes(held[KV_CACHE]):.0f} MB of KV in use",
        ],
    )


async def _highest_while_they_talk(server: Server, process: psutil.Process) -> int:
    talking = asyncio.create_task(_talk(server))
    highest = 0
    while not talking.done():
        highest = max(highest, process.memory_info().rss)
        await asyncio.wait([talking], timeout=SAMPLE_SECONDS)
    await talking
    return highest


async def _talk(server: Server) -> None:
    for _ in range(CONVERSATIONS):
        first = long_story(HISTORY_TOKENS)
        answer = await ask(server, first)
        await ask(server, continued(first, answer, question(NEW_TOKENS)))


async def _held(server: Server) -> dict[str, float]:
    """Bytes by owner, as the gateway accounts for them."""
    async with server.client() as client:
        return memory_by_owner((await client.get("/metrics")).text)


def memory_by_owner(metrics: str) -> dict[str, float]:
    """Raises `UnusableRun` unless weights and KV cache are among them."""
    families = text_string_to_metric_families(metrics)
    samples = [sample for family in families for sample in family.samples if sample.name == MEMORY_METRIC]
    held = {sample.labels["owner"]: sample.value for sample in samples}
    if missing := {WEIGHTS, KV_CACHE} - set(held):
        raise UnusableRun(f"{MEMORY_METRIC} does not tell of {' and '.join(sorted(missing))}.")
    return held


def _require_overfull(state: CacheState) -> None:
    if not state.ram.evicted:
        raise UnusableRun(f"The conversations did not overfill a memory tier of {state.ram.limit_bytes} bytes.")


def _megabytes(count: float) -> float:
    return count / 1e6
