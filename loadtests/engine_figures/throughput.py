"""All tokens of many clients over the whole time, prompts included."""

from collections import defaultdict
from collections.abc import Sequence

from loadtests.bare import Generated, Work
from loadtests.comparison_report import figures
from loadtests.contenders import Contenders
from loadtests.figure import Figure, Measured, at_least, each, ratio, span
from loadtests.prompts import long_story
from loadtests.servers import GATEWAY, MLX_LM
from loadtests.streaming_client import ChatRequest, Message
from loadtests.turns import all_at_once, require_cold

CLIENTS = (8, 16)
PROMPT_TOKENS = 200
ANSWER_TOKENS = 48
BARE = "bare BatchGenerator"
CHUNK_TOKENS = 128
BARE_CHUNKED = f"{BARE}, {CHUNK_TOKENS}-token chunks"


async def measure(contenders: Contenders, rounds: int) -> Measured:
    results = [await _measure(contenders, rounds, clients) for clients in CLIENTS]
    return Measured(
        [figure for one in results for figure in one.figures], [note for one in results for note in one.notes]
    )


async def _measure(contenders: Contenders, rounds: int, clients: int) -> Measured:
    whole: dict[str, list[float]] = defaultdict(list)
    decode: dict[str, list[float]] = defaultdict(list)
    prompt_tokens, tokens = set[int](), set[int]()
    for _ in range(rounds):
        prompts = [long_story(PROMPT_TOKENS) for _ in range(clients)]
        for server in contenders.servers:
            requests = [ChatRequest(server.model, messages, ANSWER_TOKENS) for messages in prompts]
            streams = await all_at_once(server, requests)
            require_cold(streams)
            found = figures(streams)
            whole[server.name].append(found.aggregate_tokens_per_second)
            decode[server.name].append(found.decode_tokens_per_second)
            prompt_tokens.update(stream.prompt_tokens for stream in streams)
            tokens.update(stream.tokens for stream in streams)
        await _bare(contenders, prompts, whole)
    return Measured(
        [
            *_named(clients, each("tokens/s", whole)),
            *_named(clients, each("decode, tokens/s per client", decode)),
            *_named(
                clients, [ratio(whole, GATEWAY, MLX_LM, at_least(1.1)), ratio(whole, GATEWAY, BARE, at_least(0.98))]
            ),
            *_named(clients, [ratio(whole, GATEWAY, BARE_CHUNKED)]),
        ],
        [f"{clients} clients: prompts of {span(sorted(prompt_tokens))} tokens, {span(sorted(tokens))} generated each"],
    )


async def _bare(contenders: Contenders, prompts: list[list[Message]], whole: dict[str, list[float]]) -> None:
    whole[BARE].append(_tokens_per_second(await contenders.bare.generate(Work(prompts, ANSWER_TOKENS))))
    chunked = Work(prompts, ANSWER_TOKENS, CHUNK_TOKENS)
    whole[BARE_CHUNKED].append(_tokens_per_second(await contenders.bare.generate(chunked)))


def _tokens_per_second(generated: Generated) -> float:
    return sum(map(len, generated.token_times)) / max(times[-1] for times in generated.token_times)


def _named(clients: int, several: Sequence[Figure]) -> list[Figure]:
    return [Figure(f"{clients}: {one.what}", one.value, one.rounds, one.goal, one.met) for one in several]
