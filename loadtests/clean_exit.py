"""Does the gateway end well when it is told to stop while it generates?

    python -m loadtests.clean_exit --runs 20

Each run starts it, lets three streams begin, sends SIGTERM, and requires exit status 0 in time, a log without a crash,
and streams that ended as the protocol says: finished, or told `shutting_down`, never just cut.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx

from gateway.config import load_config
from loadtests.prompts import long_story
from loadtests.servers import Server, ServerFailed, gateway_server
from loadtests.streaming_client import ChatRequest, ChatStream

STREAMS = 3
MAX_TOKENS = 2000  # more than can be generated before the signal
GRACE_SECONDS = "0.5"
CRASH_WORDS = ("Traceback", "Segmentation", "Fatal", "terminate called")
FINISHED = "finished"
TOLD = "told shutting_down"


@dataclass(frozen=True, slots=True)
class Exit:
    """One run: how long the process took to end, how each stream ended, and what was wrong."""

    seconds: float
    stream_ends: list[str]
    complaints: list[str]

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in Counter(self.stream_ends).items())
        return f"ended after {self.seconds:.1f} s; streams: {ends}; {'; '.join(self.complaints) or 'clean'}"


async def clean_exits(runs: int, store: Path, model: str = "") -> int:
    """The number of clean runs; prints a line for each. `store` is absolute; `model` is what `--model` takes."""
    clean = 0
    for number in range(1, runs + 1):
        one = await _exit_while_generating(store, model)
        clean += not one.complaints
        print(f"run {number}: {one}", flush=True)
    return clean


async def _exit_while_generating(store: Path, model: str) -> Exit:
    settings = {"MLX_GATEWAY_SERVER_SHUTDOWN_GRACE_SECONDS": GRACE_SECONDS}
    streams = [ChatStream() for _ in range(STREAMS)]
    async with gateway_server(model, store, settings) as server, server.client() as client:
        request = ChatRequest(server.model, long_story(0), MAX_TOKENS)
        ends = asyncio.gather(*(_end(stream, client, request) for stream in streams))
        for stream in streams:
            await stream.under_way.wait()
        began = time.perf_counter()
        complaints = await _complaints(server)
        seconds = time.perf_counter() - began
        stream_ends = await ends
    complaints += [f"a stream {end}" for end in stream_ends if end not in (FINISHED, TOLD)]
    return Exit(seconds, stream_ends, complaints)


async def _complaints(server: Server) -> list[str]:
    """Stops the server and says what was wrong with that."""
    try:
        status = await server.stop()
    except ServerFailed as failure:
        server.process.kill()
        return [str(failure)]
    log = server.log()
    wrong = [f"wrote {word!r} to its log" for word in CRASH_WORDS if word in log]
    if status != 0:
        wrong.insert(0, f"had exit status {status}")
    return [str(server.failure(" and ".join(wrong)))] if wrong else []


async def _end(stream: ChatStream, client: httpx.AsyncClient, request: ChatRequest) -> str:
    """How the stream ended, in words."""
    try:
        await stream.receive(client, request)
    except httpx.HTTPError as error:
        return f"was cut: {error!r}"
    if not stream.done:
        return "ended without [DONE]"
    if stream.error_code:
        return TOLD if stream.error_code == "shutting_down" else f"failed with {stream.error_code}"
    return FINISHED if stream.finish_reason else "ended without a finish_reason"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.clean_exit", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--model", default="", help="a folder, a GGUF file or a Hugging Face id (default: the demo)")
    parser.add_argument("--store", type=Path, default=load_config().store_directory, help="default: %(default)s")
    options = parser.parse_args()
    clean = asyncio.run(clean_exits(options.runs, options.store.absolute(), options.model))
    print(f"{clean} of {options.runs} clean")
    return 0 if clean == options.runs else 1


if __name__ == "__main__":
    sys.exit(main())
