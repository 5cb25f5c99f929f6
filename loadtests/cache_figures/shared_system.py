"""Two sessions with the same long system prompt, each with a short message of its own."""

from msgspec.structs import replace

from loadtests.cache_figures.bench import Bench
from loadtests.cache_state import clear_cache
from loadtests.figure import Measured, at_most, span, worst_of
from loadtests.prompt_tokens import PromptTokenizer, common_length
from loadtests.prompts import question, system_message
from loadtests.servers import Server
from loadtests.streaming_client import ChatRequest, ChatStream
from loadtests.turns import all_at_once, quiet, require_cold

SYSTEM_TOKENS = 2000
OWN_TOKENS = 100
ANSWER_TOKENS = 2
SESSIONS = ("one", "other")
MOST_BEYOND_TOKENS = 32


class Pair:
    """What two sessions computed. `own_tokens`: of each, what follows the beginning that both prompts share."""

    def __init__(self, streams: list[ChatStream], prompts: list[list[int]]) -> None:
        shared = common_length(*prompts)
        self.streams = streams
        self.own_tokens = [len(prompt) - shared for prompt in prompts]

    @property
    def beyond_tokens(self) -> int:
        """What both computed beyond their own messages and the shared beginning, which has to be computed once."""
        once = self.streams[0].prompt_tokens + self.own_tokens[1]
        return sum(stream.computed_tokens for stream in self.streams) - once


async def measure(bench: Bench) -> Measured:
    tokenizer = PromptTokenizer(bench.folder)
    after, together = list[Pair](), list[Pair]()
    async with bench.gateway() as server:
        for _ in range(bench.rounds):
            after.append(await _pair(server, tokenizer, at_once=False))
            await clear_cache(server)
            together.append(await _pair(server, tokenizer, at_once=True))
            await clear_cache(server)
    return Measured(
        [
            worst_of(
                "second session later: tokens computed beyond its message",
                [pair.streams[1].computed_tokens - pair.own_tokens[1] for pair in after],
                at_most(MOST_BEYOND_TOKENS),
            ),
            worst_of(
                "both at once: tokens computed beyond messages and one system prompt",
                [pair.beyond_tokens for pair in together],
                at_most(MOST_BEYOND_TOKENS),
            ),
        ],
        [
            _note("second session later", after),
            _note("both at once", together),
            "a session's own message counts with what the chat template puts around it",
        ],
    )


async def _pair(server: Server, tokenizer: PromptTokenizer, *, at_once: bool) -> Pair:
    system = system_message(SYSTEM_TOKENS)
    conversations = [[system, question(OWN_TOKENS)] for _ in SESSIONS]
    requests = [
        replace(ChatRequest(server.model, messages, ANSWER_TOKENS), prompt_cache_key=session)
        for messages, session in zip(conversations, SESSIONS, strict=True)
    ]
    if at_once:
        streams = await all_at_once(server, requests, least_pieces=0)
    else:
        streams = [(await all_at_once(server, [request], least_pieces=0))[0] for request in requests]
        require_cold(streams[:1])
    await quiet([server])
    pairs = zip(conversations, streams, strict=True)
    return Pair(streams, [tokenizer.ids_of(messages, stream) for messages, stream in pairs])


def _note(what: str, pairs: list[Pair]) -> str:
    prompts = span([stream.prompt_tokens for pair in pairs for stream in pair.streams])
    own = span([count for pair in pairs for count in pair.own_tokens])
    computed = ", ".join(" and ".join(str(stream.computed_tokens) for stream in pair.streams) for pair in pairs)
    return f"{what}: prompts of {prompts} tokens, {own} of them a session's own; computed {computed}"
