"""What GET /metrics costs while sixteen answers stream: its time, and the throughput that it takes.

python -m loadtests.scrape_figures [--model MODEL] [--store FOLDER] [--tokens N] [--rounds N]

Prometheus scrapes every few seconds. Here it is once a second, and the throughput with scrapes is compared with that
without, in turns.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

from loadtests.servers import Server, gateway_server
from loadtests.streaming_client import ChatRequest, ChatStream, Message

STREAMS = 16
SCRAPE_SECONDS = 1.0
GOAL_MILLISECONDS = 5.0
GOAL_SHARE = 0.01


async def _streams(server: Server, client: httpx.AsyncClient, tokens: int) -> float:
    """Tokens by second of sixteen streams together."""
    streams = [ChatStream() for _ in range(STREAMS)]
    started = time.perf_counter()
    requests = [
        ChatRequest(server.model, [Message("user", f"Number {index}: tell me a story.")], tokens)
        for index in range(STREAMS)
    ]
    await asyncio.gather(*(stream.receive(client, request) for stream, request in zip(streams, requests, strict=True)))
    return sum(stream.tokens for stream in streams) / (time.perf_counter() - started)


async def _scrape(client: httpx.AsyncClient, seconds: list[float]) -> None:
    while True:
        started = time.perf_counter()
        (await client.get("/metrics")).raise_for_status()
        seconds.append(time.perf_counter() - started)
        await asyncio.sleep(SCRAPE_SECONDS)


async def measure(model: str, store: Path, tokens: int, rounds: int) -> list[str]:
    """The figures as lines of text."""
    scrapes: list[float] = []
    kept: list[float] = []
    async with gateway_server(model, store) as server, server.client() as client:
        await _streams(server, client, tokens)  # warms it up
        quiet = []
        for _ in range(20):
            started = time.perf_counter()
            await client.get("/metrics")
            quiet.append(time.perf_counter() - started)
        for _ in range(rounds):  # in turns, so that both meet the same machine
            without = await _streams(server, client, tokens)
            scraping = asyncio.create_task(_scrape(client, scrapes))
            scraped = await _streams(server, client, tokens)
            scraping.cancel()
            kept.append(scraped / without)
    share = 1 - median(kept)
    by_work = median(quiet) / SCRAPE_SECONDS
    return [
        f"GET /metrics, idle: {median(quiet) * 1000:.1f} ms (goal: at most {GOAL_MILLISECONDS:g})",
        f"GET /metrics beside {STREAMS} streams: {median(scrapes) * 1000:.1f} ms of {len(scrapes)}",
        f"throughput lost to a scrape a second: {share:.1%} (rounds: {', '.join(f'{1 - k:.1%}' for k in kept)};"
        f" goal: at most {GOAL_SHARE:.0%}); by its own work at most {by_work:.2%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="what --model of the gateway takes (default: the demo model)")
    parser.add_argument("--store", type=Path, help="where models are kept (default: a folder that is removed)")
    parser.add_argument("--tokens", type=int, default=100, help="of each answer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="with and without scrapes (default: %(default)s)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = (asked.store or Path(folder)).resolve()
        print("\n".join(asyncio.run(measure(asked.model, store, asked.tokens, asked.rounds))))


if __name__ == "__main__":
    main()
