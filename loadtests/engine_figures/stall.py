"""What a running stream feels of a neighbour's long cold prompt, and what that prompt pays for being polite."""

from itertools import pairwise
from statistics import median

import httpx

from loadtests.contenders import Contenders
from loadtests.figure import Figure, Measured, at_most, median_of, span
from loadtests.prompts import long_story
from loadtests.servers import GATEWAY, Server
from loadtests.streaming_client import ChatRequest, ChatStream
from loadtests.turns import UnusableRun, all_at_once, require_cold, running_stream

COLD_PROMPT_TOKENS = 3000
COLD_PROMPT_RANGE = range(2900, 3101)
COLD_ANSWER_TOKENS = 2
RUNNING_ANSWER_TOKENS = 4000  # more than can be generated before the long prompt is done
PIECES_BEFORE = 24
PIECES_AFTER = 2
LONGEST_GAP = "longest gap of the running stream / its median gap before"
SLOWER_START = "TTFT of the 3k prompt beside a stream / alone"


class Turn:
    """One server's: a cold prompt alone, then another beside a running stream."""

    def __init__(self, alone: ChatStream, running: ChatStream, beside: ChatStream) -> None:
        arrived, answered = beside.started, beside.content_times[0]
        gaps = list(pairwise(running.content_times))
        self.median_gap = median(later - earlier for earlier, later in gaps if later <= arrived)
        self.longest_gap = max(later - earlier for earlier, later in gaps if later > arrived and earlier < answered)
        self.pieces_meanwhile = sum(arrived < time < answered for time in running.content_times)
        self.alone_seconds = alone.ttft_seconds
        self.beside_seconds = answered - arrived
        self.prompt_tokens = [alone.prompt_tokens, beside.prompt_tokens]


async def measure(contenders: Contenders, rounds: int) -> Measured:
    turns: dict[str, list[Turn]] = {server.name: [] for server in contenders.servers}
    for _ in range(rounds):
        for server in contenders.servers:
            turns[server.name].append(await _turn(server))
            await contenders.quiet()
    figures, notes = list[Figure](), list[str]()
    for name, of_server in turns.items():
        ours = name == GATEWAY
        gaps, starts = at_most(6) if ours else None, at_most(1.3) if ours else None
        figures += [
            median_of(f"{name}: {LONGEST_GAP}", [turn.longest_gap / turn.median_gap for turn in of_server], gaps),
            median_of(
                f"{name}: {SLOWER_START}", [turn.beside_seconds / turn.alone_seconds for turn in of_server], starts
            ),
            median_of(f"{name}: median gap before, ms", [1000 * turn.median_gap for turn in of_server]),
            median_of(f"{name}: longest gap, ms", [1000 * turn.longest_gap for turn in of_server]),
            median_of(f"{name}: TTFT alone, s", [turn.alone_seconds for turn in of_server]),
            median_of(f"{name}: TTFT beside the stream, s", [turn.beside_seconds for turn in of_server]),
        ]
        prompts = span([turn.prompt_tokens for turn in of_server])
        pieces = span([turn.pieces_meanwhile for turn in of_server])
        notes.append(f"{name}: prompts of {prompts} tokens; meanwhile the stream got {pieces} pieces")
    return Measured(figures, notes)


async def _turn(server: Server) -> Turn:
    (alone,) = await all_at_once(server, [_cold_prompt(server)], least_pieces=1)
    beside = ChatStream()
    request = ChatRequest(server.model, long_story(0), RUNNING_ANSWER_TOKENS)
    try:
        async with server.client() as client, running_stream(client, request) as running:
            await running.content(PIECES_BEFORE)
            await beside.receive(client, _cold_prompt(server))
            await running.content(len(running.content_times) + PIECES_AFTER)
    except httpx.HTTPError as error:
        raise UnusableRun(f"{server.name} failed: {error!r}.") from error
    if running.finish_reason or running.error_code or len(running.content_times) < PIECES_BEFORE:
        raise UnusableRun(
            f"The running stream of {server.name} ended too early, after {len(running.content_times)} pieces: "
            f"{running.finish_reason or running.error_code or 'cut'}."
        )
    for cold in (alone, beside):
        if cold.prompt_tokens not in COLD_PROMPT_RANGE or not cold.content_times:
            raise UnusableRun(f"A cold prompt of {server.name} had {cold.prompt_tokens} tokens, or no answer.")
    require_cold([alone, beside])
    return Turn(alone, running, beside)


def _cold_prompt(server: Server) -> ChatRequest:
    return ChatRequest(server.model, long_story(COLD_PROMPT_TOKENS), COLD_ANSWER_TOKENS)
