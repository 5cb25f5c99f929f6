"""What decoding pays for the disk: the same turns at a gateway that writes to it and at one that keeps all in memory.

In each turn a stream runs while a neighbour's long prompt is computed, and so is written; then the neighbour's own
answer runs alone, right after its prompt. Speculation is off: a story that repeats itself is faster for that alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from loadtests.cache_figures.bench import Bench, ask
from loadtests.cache_state import DiskState, cache_state, written_to_disk
from loadtests.figure import Measured, at_least, each, ratio, span
from loadtests.prompts import long_story
from loadtests.servers import Server
from loadtests.streaming_client import ChatRequest, ChatStream, Message
from loadtests.turns import UnusableRun, quiet, require_cold, running_stream

NEIGHBOUR_PROMPT_TOKENS = 2500
NEIGHBOUR_ANSWER_TOKENS = 200
RUNNING_ANSWER_TOKENS = 4000  # more than can be generated meanwhile
PIECES_BEFORE = 24
LEAST_TOKENS = NEIGHBOUR_ANSWER_TOKENS // 2
DISK, NO_DISK = "disk tier", "memory only"
ONE_STREAM = {"MLX_GATEWAY_ENGINE_SPECULATION": "false"}
SETTINGS = {DISK: ONE_STREAM, NO_DISK: {**ONE_STREAM, "MLX_GATEWAY_CACHE_DISK_BYTES": "0"}}
GOAL = at_least(0.97)


@dataclass(frozen=True)
class Turn:
    """Tokens/s beside the neighbour's prompt and after it; the disk is as it was when the neighbour's answer began."""

    beside: float
    after: float
    disk: DiskState


async def measure(bench: Bench) -> Measured:
    turns: dict[str, list[Turn]] = defaultdict(list)
    async with bench.gateway(SETTINGS[DISK]) as writing, bench.gateway(SETTINGS[NO_DISK]) as not_writing:
        pair = [(DISK, writing), (NO_DISK, not_writing)]
        for _, server in pair:
            await ask(server, long_story(0))
        for number in range(bench.rounds):
            running, neighbours = long_story(0), long_story(NEIGHBOUR_PROMPT_TOKENS)  # the same for both of a pair
            for name, server in pair if number % 2 == 0 else reversed(pair):  # drift must not favour one
                await quiet([writing, not_writing])
                turns[name].append(await _turn(server, running, neighbours))
                await written_to_disk(server)
    beside = {name: [turn.beside for turn in of_name] for name, of_name in turns.items()}
    after = {name: [turn.after for turn in of_name] for name, of_name in turns.items()}
    return Measured(
        [
            *each("tokens/s while a neighbour's prompt is computed", beside),
            ratio(beside, DISK, NO_DISK, GOAL),
            *each("tokens/s right after the prompt", after),
            ratio(after, DISK, NO_DISK, GOAL),
        ],
        [
            f"{NEIGHBOUR_ANSWER_TOKENS} tokens after a prompt of {NEIGHBOUR_PROMPT_TOKENS}; when they began, "
            f"{_megabytes([turn.disk.bytes for turn in turns[DISK]])} were on disk and "
            f"{_megabytes([turn.disk.waiting_bytes for turn in turns[DISK]])} waited to be written; "
            "each round adds to that"
        ],
    )


async def _turn(server: Server, story: list[Message], neighbours_story: list[Message]) -> Turn:
    request = ChatRequest(server.model, story, RUNNING_ANSWER_TOKENS)
    neighbours = ChatRequest(server.model, neighbours_story, NEIGHBOUR_ANSWER_TOKENS)
    async with server.client() as client, AsyncExitStack() as until_the_end:
        async with running_stream(client, request) as running:
            await running.content(PIECES_BEFORE)
            neighbour = await until_the_end.enter_async_context(running_stream(client, neighbours))
            await neighbour.content(1)
            if running.ended or not neighbour.content_times:
                raise UnusableRun("The running stream ended too early, or its neighbour's did not begin.")
        disk = (await cache_state(server)).disk
        await neighbour.end()
    if not neighbour.done or neighbour.tokens < LEAST_TOKENS:
        raise UnusableRun(f"The neighbour's answer ended after {neighbour.tokens} tokens.")
    require_cold([neighbour])
    return Turn(speed_beside(running, neighbour), speed_after(neighbour), disk)


def speed_beside(running: ChatStream, neighbour: ChatStream) -> float:
    """Of the running stream, tokens/s until the neighbour's prompt is computed."""
    arrived, answered = neighbour.started, neighbour.content_times[0]
    return sum(arrived < time <= answered for time in running.content_times) / (answered - arrived)


def speed_after(neighbour: ChatStream) -> float:
    return (neighbour.tokens - 1) / (neighbour.content_times[-1] - neighbour.content_times[0])


def _megabytes(counts: Sequence[int]) -> str:
    return f"{span([round(count / 1e6) for count in counts])} MB"
