"""A client gives up while its long prompt is computed, and sends it again at once."""

import asyncio

from loadtests.cache_figures.bench import Bench, ask
from loadtests.figure import Measured, at_most, median_of, span
from loadtests.prompts import long_story
from loadtests.servers import Server
from loadtests.streaming_client import ChatRequest, ChatStream, Message
from loadtests.turns import UnusableRun, require_cold, running_stream

PROMPT_TOKENS = 2500
ANSWER_TOKENS = 2
GIVEN_UP_AT = 0.8


async def measure(bench: Bench) -> Measured:
    cold, again = list[ChatStream](), list[ChatStream]()
    async with bench.gateway() as server:
        for _ in range(bench.rounds):
            cold.append(await ask(server, long_story(PROMPT_TOKENS), ANSWER_TOKENS))
            messages = long_story(PROMPT_TOKENS)
            await _give_up(server, messages, GIVEN_UP_AT * cold[-1].ttft_seconds)
            again.append(await ask(server, messages, ANSWER_TOKENS))
    require_cold(cold)
    faster = [one.ttft_seconds / other.ttft_seconds for one, other in zip(again, cold, strict=True)]
    return Measured(
        [
            median_of(
                "share of the prompt computed again",
                [stream.computed_tokens / stream.prompt_tokens for stream in again],
                at_most(0.25),
            ),
            median_of("TTFT of the second attempt / cold", faster),
        ],
        [
            f"prompts of {span([stream.prompt_tokens for stream in again])} tokens, given up after "
            f"{GIVEN_UP_AT:.0%} of the time that another one of that length took just before; "
            f"{span([stream.computed_tokens for stream in again])} tokens were computed again"
        ],
    )


async def _give_up(server: Server, messages: list[Message], after_seconds: float) -> None:
    request = ChatRequest(server.model, messages, ANSWER_TOKENS)
    async with server.client() as client, running_stream(client, request) as stream:
        await asyncio.sleep(after_seconds)
        if stream.ended or stream.content_times:
            raise UnusableRun("A prompt that was to be given up while it is computed was answered before that.")
