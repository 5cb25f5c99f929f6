"""The next turn of a conversation after the gateway was killed with SIGKILL and started again on the same folder.

It is compared with another next turn of the same conversation and the same length, before the kill.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from loadtests.cache_figures.bench import Bench, ask, continued
from loadtests.cache_folder import kept_in
from loadtests.cache_state import CacheState, written_to_disk
from loadtests.figure import Measured, at_most, each, ratio, span
from loadtests.prompts import long_story, question
from loadtests.servers import Server
from loadtests.streaming_client import ChatStream, Message
from loadtests.turns import require_cold

HISTORY_TOKENS = 2500
NEW_TOKENS = 270
ANSWER_TOKENS = 2
WARM = "warm"
KILLED = "killed when all was written"
KILLED_AT_ONCE = "killed at the answer's end"


async def measure(bench: Bench) -> Measured:
    turns: dict[str, list[ChatStream]] = defaultdict(list)
    removed = list[Mapping[str, int]]()
    for _ in range(bench.rounds):
        with bench.empty_cache_folder() as folder:
            state = await _round(bench, folder, turns)
            removed.append(state.disk.removed)
    seconds = {name: [turn.ttft_seconds for turn in of_name] for name, of_name in turns.items()}
    return Measured(
        [
            *each("TTFT of the next turn, s", seconds),
            ratio(seconds, KILLED, WARM, at_most(1.15)),
            ratio(seconds, KILLED_AT_ONCE, WARM),
        ],
        [
            f"{name}: prompts of {span([turn.prompt_tokens for turn in of_name])} tokens, of which "
            f"{span([turn.computed_tokens for turn in of_name])} were computed for this turn"
            for name, of_name in turns.items()
        ]
        + [
            f"{KILLED!r}: the disk had nothing left to write by GET /admin/cache; the files may still be in the memory "
            "of the operating system, which survives the process",
            f"files removed at the last start of each round, by reason: {removed}",
        ],
    )


async def _round(bench: Bench, folder: Path, turns: dict[str, list[ChatStream]]) -> CacheState:
    """Two kills; returns what the last gateway says of the folder."""
    async with bench.gateway(kept_in(folder)) as server:
        messages, answer = await first_turn(server)
        turns[WARM].append(await following_turn(server, messages, answer))
        await written_to_disk(server)
        await server.kill()
    async with bench.gateway(kept_in(folder)) as server:
        turns[KILLED].append(await following_turn(server, messages, answer))
        messages, answer = await first_turn(server)
        await server.kill()
    async with bench.gateway(kept_in(folder)) as server:
        turns[KILLED_AT_ONCE].append(await following_turn(server, messages, answer))
        return await written_to_disk(server)


async def first_turn(server: Server) -> tuple[list[Message], ChatStream]:
    messages = long_story(HISTORY_TOKENS)
    answer = await ask(server, messages)
    require_cold([answer])
    return messages, answer


async def following_turn(server: Server, messages: list[Message], answer: ChatStream) -> ChatStream:
    return await ask(server, continued(messages, answer, question(NEW_TOKENS)), ANSWER_TOKENS)
