"""One client's decode speed, from its first token to its last, against mlx-lm without a server."""

from collections import defaultdict

from loadtests.bare import Work
from loadtests.comparison_report import figures
from loadtests.contenders import Contenders
from loadtests.figure import Measured, at_least, each, ratio, span
from loadtests.prompts import long_story
from loadtests.servers import GATEWAY, MLX_LM
from loadtests.streaming_client import ChatRequest
from loadtests.turns import all_at_once

PROMPT_TOKENS = 200
ANSWER_TOKENS = 128
BARE_BATCH, BARE_LOOP = "bare BatchGenerator", "bare generate_step"


async def measure(contenders: Contenders, rounds: int) -> Measured:
    speeds: dict[str, list[float]] = defaultdict(list)
    tokens: set[int] = set()
    for _ in range(rounds):
        messages = long_story(PROMPT_TOKENS)
        for server in contenders.servers:
            streams = await all_at_once(server, [ChatRequest(server.model, messages, ANSWER_TOKENS)])
            speeds[server.name].append(figures(streams).decode_tokens_per_second)
            tokens.add(streams[0].tokens)
        for name, batched in ((BARE_BATCH, True), (BARE_LOOP, False)):
            generated = await contenders.bare.generate(Work([messages], ANSWER_TOKENS, batched=batched))
            (times,) = generated.token_times
            speeds[name].append((len(times) - 1) / (times[-1] - times[0]))
    return Measured(
        [
            *each("decode, tokens/s", speeds),
            ratio(speeds, GATEWAY, BARE_BATCH, at_least(0.98)),
            ratio(speeds, GATEWAY, BARE_LOOP, at_least(0.98)),
            ratio(speeds, MLX_LM, BARE_BATCH),
        ],
        [f"{span(sorted(tokens))} tokens generated"],
    )
