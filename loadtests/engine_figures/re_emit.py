"""A file is put out again with a small change, as agents have it done all day.

The conversation holds the file twice, because a model of 135 M parameters copies a file only
after it has seen one copied. From the second round on every server knows the prompt; only decoding is measured.
"""

from collections import defaultdict

from loadtests.comparison_report import figures
from loadtests.contenders import Contenders
from loadtests.engine_figures.source_file import SOURCE
from loadtests.figure import Measured, at_least, each, median_of, ratio, span
from loadtests.prompt_tokens import common_length
from loadtests.servers import GATEWAY, MLX_LM
from loadtests.streaming_client import ChatRequest, Message
from loadtests.turns import all_at_once

FILE = f"```python\n{SOURCE}```"
MESSAGES = [
    Message("user", f"Output this file:\n\n{FILE}"),
    Message("assistant", FILE),
    Message("user", "Output the file again, with the line TEAPOT = 418 changed to TEAPOT = 419."),
]
ANSWER_TOKENS = 640  # more than the file has


async def measure(contenders: Contenders, rounds: int) -> Measured:
    speeds: dict[str, list[float]] = defaultdict(list)
    tokens: dict[str, list[int]] = defaultdict(list)
    texts: dict[str, str] = {}
    for _ in range(rounds):
        for server in contenders.servers:
            streams = await all_at_once(server, [ChatRequest(server.model, MESSAGES, ANSWER_TOKENS)])
            speeds[server.name].append(figures(streams).decode_tokens_per_second)
            tokens[server.name].append(streams[0].tokens)
            texts[server.name] = streams[0].text
    ours, theirs = texts[GATEWAY], texts[MLX_LM]
    same = common_length(ours, theirs)
    lines = len(_lines(SOURCE))
    notes = [
        f"{name}: {span(tokens[name])} tokens, {len(text)} characters; unchanged {_copied(text)} of {lines} lines"
        for name, text in texts.items()
    ]
    verdict = "the same text" if ours == theirs else f"texts differ from character {same} of {len(theirs)} on"
    return Measured(
        [
            *each("decode, tokens/s", speeds),
            ratio(speeds, GATEWAY, MLX_LM, at_least(2.5)),
            median_of("characters that both texts begin with", [same]),
        ],
        [*notes, verdict],
    )


def _copied(text: str) -> int:
    put_out = set(_lines(text))
    return sum(line in put_out for line in _lines(SOURCE))


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]
