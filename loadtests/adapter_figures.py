"""Measures what it costs that the answers of one batch have different LoRA adapters.

    python -m loadtests.adapter_figures --rounds 3 --json figures.json

One gateway serves the demo model in float32 with two random adapters for every linear layer of it. Eight clients at
once ask for one adapter, for both by turns, for both and the base by turns, and for the base alone. The exit status is
0 if all could be measured, goals met or not.
"""

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.model_store.safetensors_file import Outgoing, write_safetensors
from loadtests.comparison_report import figures
from loadtests.figure import Measured, Report, at_least, each, ratio, span
from loadtests.model_folder import float32_folder
from loadtests.prompts import long_story
from loadtests.sections import add_section, command_line, introduce, run
from loadtests.servers import Server, gateway_server
from loadtests.streaming_client import ChatRequest, ChatStream
from loadtests.turns import all_at_once, quiet, require_cold, same_blas

MODULE = "loadtests.adapter_figures"
SECTION = "adapters"
CLIENTS = 8
PROMPT_TOKENS = 100
ANSWER_TOKENS = 48
WARM_UP_TOKENS = 8
RANKS = {"one": 16, "two": 8}
STRENGTH = 0.01
"""Of a random product: little, so that the text stays such that answers have their whole length."""
ALONE, MIXED, WITH_BASE, BASE = "one adapter", "two adapters", "two adapters and the base", "the base"
TURNS: Mapping[str, Sequence[str]] = {
    ALONE: (":one",),
    MIXED: (":one", ":two"),
    WITH_BASE: (":one", ":two", ""),
    BASE: ("",),
}


async def measure(server: Server, rounds: int) -> Measured:
    whole: dict[str, list[float]] = defaultdict(list)
    decode: dict[str, list[float]] = defaultdict(list)
    tokens: dict[str, list[int]] = defaultdict(list)
    await _turn(server, TURNS[WITH_BASE], WARM_UP_TOKENS)
    for _ in range(rounds):
        for name, endings in TURNS.items():
            await quiet([server])
            streams = await _turn(server, endings, ANSWER_TOKENS)
            require_cold(streams)
            found = figures(streams)
            whole[name].append(found.aggregate_tokens_per_second)
            decode[name].append(found.decode_tokens_per_second)
            tokens[name] += [stream.tokens for stream in streams]
    return Measured(
        [
            *each("tokens/s", whole),
            *each("decode, tokens/s per client", decode),
            ratio(whole, MIXED, ALONE, at_least(0.8)),
            ratio(whole, WITH_BASE, ALONE),
            ratio(whole, ALONE, BASE),
        ],
        [
            f"{CLIENTS} clients, prompts of {PROMPT_TOKENS} tokens; adapters of rank {RANKS['one']} and {RANKS['two']}",
            *(f"{name}: {span(counts)} tokens generated each" for name, counts in tokens.items()),
        ],
    )


async def _turn(server: Server, endings: Sequence[str], answer_tokens: int) -> list[ChatStream]:
    """New prompts each time: nothing of them shall be known."""
    models = islice(cycle(endings), CLIENTS)
    requests = [ChatRequest(f"{server.model}{ending}", long_story(PROMPT_TOKENS), answer_tokens) for ending in models]
    return await all_at_once(server, requests, least_pieces=1)


def write_adapter(folder: Path, model: Path, rank: int) -> None:
    """A random adapter in mlx-lm's format for every linear layer inside a model's blocks."""
    folder.mkdir()
    parameters = {"rank": rank, "scale": 1.0}
    config = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    random = np.random.default_rng(rank)
    tensors = []
    for path, (outputs, inputs) in _linear_layers(model).items():
        for name, shape in (("lora_a", (inputs, rank)), ("lora_b", (rank, outputs))):
            array = (STRENGTH * random.standard_normal(shape)).astype(np.float32)
            tensors.append(Outgoing(f"{path}.{name}", array.dtype, shape, partial(_in_one_piece, array)))
    write_safetensors(folder / "adapters.safetensors", tensors, lambda _bytes: None)


def _in_one_piece(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    yield array


def _linear_layers(model: Path) -> dict[str, tuple[int, int]]:
    with (model / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        name.removesuffix(".weight"): tuple(tensor["shape"])
        for name, tensor in header.items()
        if name.endswith("_proj.weight")
    }


async def _measure_all(store: Path, rounds: int, report: Report) -> None:
    folder = await float32_folder(store, store / "benchmark")
    with tempfile.TemporaryDirectory(prefix="mlx-gateway-adapters-") as directory:
        made = Path(directory)
        for name, rank in RANKS.items():
            write_adapter(made / name, folder, rank)
        config = made / "gateway.toml"
        config.write_text(f"[model]\nadapters = {json.dumps([f'{name}={made / name}' for name in RANKS])}\n")
        async with gateway_server(str(folder), store, options=("--config", str(config))) as server:
            introduce(report, same_blas([server.log()]))
            await add_section(report, SECTION, measure(server, rounds))


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = command_line(MODULE, __doc__, [SECTION]).parse_args(arguments)

    async def measure_all(report: Report) -> None:
        await _measure_all(options.store.absolute(), options.rounds, report)

    return run(["python", "-m", MODULE, *arguments], options.json, measure_all)


if __name__ == "__main__":
    sys.exit(main())
