"""SIGKILL in the middle of a write to disk, again and again on the same folder.

Each time the gateway is started again, answers that use what was kept are compared with those of a gateway that keeps
nothing, and every file is read by the code that wrote it.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from gateway.prefix_cache.block_file import SUFFIX, UNFINISHED_NAME, BadBlockFile, read
from gateway.prefix_cache.cipher import Cipher
from loadtests.cache_figures.bench import Bench, ask
from loadtests.cache_folder import kept_in
from loadtests.cache_state import written_to_disk
from loadtests.figure import Measured, at_most, median_of, span, worst_of
from loadtests.prompts import long_story
from loadtests.servers import Server
from loadtests.streaming_client import ChatRequest, Message
from loadtests.turns import running_stream

PROMPT_TOKENS = 600
ANSWER_TOKENS = 16
MOST_WRITES = 4
"""The kill comes in one of so many writes: extents of a prompt and what its answer adds."""

IDLE_SECONDS = 1.0
LOOK_SECONDS = 0.001
LATEST_SECONDS = 0.01  # after the beginning of a write, which takes about so long
KEEPS_NOTHING = {"MLX_GATEWAY_CACHE_ENABLED": "false"}


@dataclass(frozen=True)
class Story:
    """A prompt, and what is answered to it without a cache."""

    messages: list[Message]
    text: str
    finish_reason: str | None


@dataclass
class Found:
    """What the starts after the kills showed, so far."""

    kills_while_writing: int = 0
    different_answers: int = 0
    bad_files: list[str] = field(default_factory=list)
    uncounted_files: int = 0
    reused_tokens: list[int] = field(default_factory=list)
    removed: Counter[str] = field(default_factory=Counter)
    checked: set[tuple[str, int]] = field(default_factory=set)  # names and inodes of files that were read


class WriteWatch:
    """Sees writes from outside, by the name that a file has while it is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.writing = False
        self.begun = 0

    def look(self) -> None:
        was_writing, self.writing = self.writing, any(self._folder.rglob(UNFINISHED_NAME))
        self.begun += self.writing and not was_writing


async def measure(bench: Bench) -> Measured:
    found, stories, chance = Found(), list[Story](), random.Random(bench.kills)
    with bench.empty_cache_folder() as folder:
        async with bench.gateway(KEEPS_NOTHING) as reference:
            for _ in range(bench.kills):
                stories.append(await _story(reference))
                async with bench.gateway(kept_in(folder)) as server:
                    await _check(server, stories[:-1], folder, found, chance)
                    found.kills_while_writing += await _kill(server, stories[-1], WriteWatch(folder), chance)
            async with bench.gateway(kept_in(folder)) as server:
                await _check(server, stories, folder, found, chance)
    return Measured(
        [
            worst_of("answers that differ from those without a cache", [found.different_answers], at_most(0)),
            worst_of("files that cannot be read after a start", [len(found.bad_files)], at_most(0)),
            worst_of("files that GET /admin/cache does not count, or lacks", [found.uncounted_files], at_most(0)),
            median_of("kills that left an unfinished file", [found.kills_while_writing]),
        ],
        [
            f"{bench.kills} kills; {len(found.reused_tokens)} answers of {ANSWER_TOKENS} greedy tokens were compared, "
            f"with {span(found.reused_tokens)} tokens of their prompts from the cache",
            f"{len(found.checked)} files were read; removed at starts, by reason: {dict(found.removed)}",
            *found.bad_files,
        ],
    )


async def _story(reference: Server) -> Story:
    messages = long_story(PROMPT_TOKENS)
    answer = await ask(reference, messages, ANSWER_TOKENS, least_pieces=0)
    return Story(messages, answer.text, answer.finish_reason)


async def _check(server: Server, stories: Sequence[Story], folder: Path, found: Found, chance: random.Random) -> None:
    """After a start: the story that was being written when the last gateway was killed, an older one, the files."""
    for story in [*stories[-1:], *(chance.sample(stories[:-1], 1) if len(stories) > 1 else [])]:
        answer = await ask(server, story.messages, ANSWER_TOKENS, least_pieces=0)
        found.different_answers += (answer.text, answer.finish_reason) != (story.text, story.finish_reason)
        found.reused_tokens.append(answer.cached_tokens)
    disk = (await written_to_disk(server)).disk
    found.removed.update(disk.removed)
    files = files_in(folder)
    found.uncounted_files += abs(len(files) - disk.files)
    found.bad_files += bad_files(files, found.checked)


def files_in(folder: Path) -> list[Path]:
    """All that the disk tier wrote, or began to write."""
    return [*folder.rglob(f"*{SUFFIX}"), *folder.rglob(UNFINISHED_NAME)]


def bad_files(files: Iterable[Path], checked: set[tuple[str, int]]) -> list[str]:
    """Those that cannot be read, with the reason; what is in `checked` is not read again."""
    bad = []
    for file in files:
        try:
            identity = (file.name, file.stat().st_ino)
            if identity not in checked:
                checked.add(identity)
                read(file, Cipher())
        except (BadBlockFile, OSError) as error:
            bad.append(f"{file.name}: {error}")
    return bad


async def _kill(server: Server, story: Story, watch: WriteWatch, chance: random.Random) -> bool:
    """Kills it while it writes what it computes; whether it left an unfinished file."""
    request = ChatRequest(server.model, story.messages, ANSWER_TOKENS)
    wanted = chance.randint(1, MOST_WRITES)
    ended = inf  # when there was nothing more to come
    async with server.client() as client, running_stream(client, request) as stream:
        while watch.begun < wanted and time.perf_counter() < ended + IDLE_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            watch.look()
            ended = stream.ended or ended
        await asyncio.sleep(chance.uniform(0, LATEST_SECONDS))
        await server.kill()
    watch.look()
    return watch.writing
