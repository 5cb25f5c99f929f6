"""A long prompt, exactly repeated after the gateway was stopped with SIGTERM and started again."""

from loadtests.cache_figures.bench import Bench, ask
from loadtests.cache_folder import kept_in
from loadtests.figure import Measured, at_most, median_of, span
from loadtests.prompts import long_story
from loadtests.streaming_client import ChatStream
from loadtests.turns import require_cold

PROMPT_TOKENS = 2200
ANSWER_TOKENS = 2


async def measure(bench: Bench) -> Measured:
    cold, again = list[ChatStream](), list[ChatStream]()
    for _ in range(bench.rounds):
        messages = long_story(PROMPT_TOKENS)
        with bench.empty_cache_folder() as folder:
            for streams in (cold, again):
                async with bench.gateway(kept_in(folder)) as server:
                    streams.append(await ask(server, messages, ANSWER_TOKENS))
    require_cold(cold)
    return Measured(
        [
            median_of("TTFT before, cold, s", [stream.ttft_seconds for stream in cold]),
            median_of("TTFT of the repeat after a restart, s", [stream.ttft_seconds for stream in again], at_most(0.3)),
        ],
        [
            f"prompts of {span([stream.prompt_tokens for stream in again])} tokens, of which "
            f"{span([stream.computed_tokens for stream in again])} were computed again"
        ],
    )
