"""The same long prompt comes again while the first one is still being computed."""

import asyncio

from loadtests.cache_figures.bench import Bench, ask
from loadtests.figure import Measured, at_most, median_of, span, worst_of
from loadtests.prompts import long_story
from loadtests.servers import Server
from loadtests.streaming_client import ChatRequest, ChatStream
from loadtests.turns import UnusableRun, all_at_once, require_cold

PROMPT_TOKENS = 2200
ANSWER_TOKENS = 4
ARRIVES_AT = 0.4
MOST_COMPUTED_TOKENS = 64


async def measure(bench: Bench) -> Measured:
    firsts, seconds = list[ChatStream](), list[ChatStream]()
    async with bench.gateway() as server:
        alone = await ask(server, long_story(PROMPT_TOKENS), ANSWER_TOKENS)
        for _ in range(bench.rounds):
            first, second = await _two(server, ARRIVES_AT * alone.ttft_seconds)
            firsts.append(first)
            seconds.append(second)
    require_cold([alone, *firsts])
    return Measured(
        [
            worst_of(
                "tokens computed again for the second",
                [stream.computed_tokens for stream in seconds],
                at_most(MOST_COMPUTED_TOKENS),
            ),
            median_of(
                "its first token after the first one's / TTFT of the first",
                [later(one, other) for one, other in zip(firsts, seconds, strict=True)],
                at_most(0.1),
            ),
            median_of("TTFT of the first / alone", [stream.ttft_seconds / alone.ttft_seconds for stream in firsts]),
        ],
        [
            f"prompts of {span([stream.prompt_tokens for stream in firsts])} tokens; the second arrives after "
            f"{ARRIVES_AT:.0%} of the time that one alone takes ({alone.ttft_seconds:.1f} s)"
        ],
    )


def later(first: ChatStream, second: ChatStream) -> float:
    """How much later the second's first token came than the first one's, as a share of the first one's TTFT."""
    return (second.content_times[0] - first.content_times[0]) / first.ttft_seconds


async def _two(server: Server, arrives_after_seconds: float) -> tuple[ChatStream, ChatStream]:
    request = ChatRequest(server.model, long_story(PROMPT_TOKENS), ANSWER_TOKENS)

    async def second() -> ChatStream:
        await asyncio.sleep(arrives_after_seconds)
        (stream,) = await all_at_once(server, [request], least_pieces=1)
        return stream

    (first,), other = await asyncio.gather(all_at_once(server, [request], least_pieces=1), second())
    if other.started > first.content_times[0]:
        raise UnusableRun("The first prompt was computed before the second came.")
    return first, other
