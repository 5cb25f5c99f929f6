"""Eight clients, each with a sampler of its own, against the same prompts answered greedily."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from loadtests.comparison_report import figures
from loadtests.contenders import Contenders
from loadtests.figure import Measured, at_least, each, ratio, span
from loadtests.prompts import long_story
from loadtests.streaming_client import ChatRequest
from loadtests.turns import all_at_once, require_cold

PROMPT_TOKENS = 200
ANSWER_TOKENS = 48
SAMPLERS: Sequence[Mapping[str, float]] = (
    {"temperature": 0.7},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 40},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.6, "presence_penalty": 0.5},
    {"temperature": 0.9, "frequency_penalty": 0.3, "top_p": 0.95},
    {"temperature": 0.5, "repetition_penalty": 1.1},
    {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "min_p": 0.02, "presence_penalty": 0.2},
)
GREEDY: Mapping[str, float] = {"temperature": 0.0}
GATEWAY_GREEDY, GATEWAY_MIXED, MLX_LM_MIXED = "gateway greedy", "gateway mixed", "mlx_lm mixed"


async def measure(contenders: Contenders, rounds: int) -> Measured:
    turns = (
        (GATEWAY_GREEDY, contenders.gateway, [GREEDY] * len(SAMPLERS)),
        (GATEWAY_MIXED, contenders.gateway, SAMPLERS),
        (MLX_LM_MIXED, contenders.mlx_lm, SAMPLERS),
    )
    whole: dict[str, list[float]] = defaultdict(list)
    decode: dict[str, list[float]] = defaultdict(list)
    tokens: dict[str, list[int]] = defaultdict(list)
    for _ in range(rounds):
        for name, server, samplers in turns:
            # new prompts in each turn: the gateway has two, and must not remember
            requests = [
                replace(ChatRequest(server.model, long_story(PROMPT_TOKENS), ANSWER_TOKENS), **sampler)
                for sampler in samplers
            ]
            streams = await all_at_once(server, requests)
            require_cold(streams)
            found = figures(streams)
            whole[name].append(found.aggregate_tokens_per_second)
            decode[name].append(found.decode_tokens_per_second)
            tokens[name] += [stream.tokens for stream in streams]
    return Measured(
        [
            *each("tokens/s", whole),
            *each("decode, tokens/s per client", decode),
            ratio(whole, GATEWAY_MIXED, MLX_LM_MIXED, at_least(1.4)),
            ratio(whole, GATEWAY_MIXED, GATEWAY_GREEDY, at_least(0.95)),
        ],
        [f"{name}: {span(counts)} tokens generated each" for name, counts in tokens.items()],
    )
