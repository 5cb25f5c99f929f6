"""How fast a long cold prompt is computed, from the time to its first token."""

from collections import defaultdict

from loadtests.bare import Work
from loadtests.contenders import Contenders
from loadtests.figure import Measured, at_least, each, ratio, span
from loadtests.prompts import long_story
from loadtests.servers import GATEWAY, MLX_LM
from loadtests.streaming_client import ChatRequest
from loadtests.turns import all_at_once, require_cold

PROMPT_TOKENS = 2200
ANSWER_TOKENS = 2
CHUNK_TOKENS = 128
BARE_BATCH = f"bare BatchGenerator, {CHUNK_TOKENS}-token chunks"
BARE_LOOP = f"bare generate_step, {CHUNK_TOKENS}-token chunks"


async def measure(contenders: Contenders, rounds: int) -> Measured:
    speeds: dict[str, list[float]] = defaultdict(list)
    lengths: set[int] = set()
    for _ in range(rounds):
        messages = long_story(PROMPT_TOKENS)
        for server in contenders.servers:
            request = ChatRequest(server.model, messages, ANSWER_TOKENS)
            (stream,) = await all_at_once(server, [request], least_pieces=1)
            require_cold([stream])
            speeds[server.name].append(stream.prompt_tokens / stream.ttft_seconds)
            lengths.add(stream.prompt_tokens)
        for name, batched in ((BARE_BATCH, True), (BARE_LOOP, False)):
            work = Work([messages], ANSWER_TOKENS, CHUNK_TOKENS, batched)
            generated = await contenders.bare.generate(work)
            speeds[name].append(generated.prompt_tokens[0] / generated.token_times[0][0])
            lengths.add(generated.prompt_tokens[0])
    return Measured(
        [
            *each("tokens/s", speeds),
            ratio(speeds, GATEWAY, MLX_LM, at_least(1.5)),
            ratio(speeds, GATEWAY, BARE_BATCH),
            ratio(speeds, GATEWAY, BARE_LOOP),
        ],
        [f"prompts of {span(sorted(lengths))} tokens"],
    )
