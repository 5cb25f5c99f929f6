"""Compares the gateway with mlx_lm.server: the same model folder, the same BLAS, the same prompts, turn by turn.

    python -m loadtests.compare --clients 1,8 --tokens 64 --prompt-tokens 200 --rounds 3 --json figures.json

Both servers are up all the time and one of them is idle, so that each pair of turns meets the same machine.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.config import load_config
from loadtests.comparison_report import Comparison, Report, Round, compare, figures, table
from loadtests.machine import this_machine
from loadtests.model_folder import float32_folder
from loadtests.prompts import long_story
from loadtests.servers import GATEWAY, MLX_LM, Server, gateway_server, mlx_lm_server
from loadtests.streaming_client import ChatRequest, Message
from loadtests.turns import CpuClock, all_at_once, same_blas

WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class Plan:
    """`store` is the gateway's model store, which also keeps the benchmark's model; absolute."""

    store: Path
    clients: Sequence[int] = (1, 8)
    tokens: int = 64
    prompt_tokens: int = 200
    rounds: int = 3
    only: str | None = None


async def run_comparison(plan: Plan, command: Sequence[str]) -> Report:
    """Prints each table when it is there; `command` is for the report.

    Raises `UnusableRun` or `ServerFailed`.
    """
    machine = this_machine()
    folder = await float32_folder(plan.store, plan.store / "benchmark")
    async with AsyncExitStack() as stack:
        servers = []
        if plan.only != MLX_LM:
            servers.append(await stack.enter_async_context(gateway_server(str(folder), plan.store)))
        if plan.only != GATEWAY:
            servers.append(await stack.enter_async_context(mlx_lm_server(folder, plan.store)))
        blas = same_blas(server.log() for server in servers)
        print(f"{machine.cpu}, {machine.cores} cores, load {machine.load_average} before; {blas}\n")
        comparisons = [await _compare(servers, clients, plan) for clients in plan.clients]
    return Report(datetime.now(UTC).isoformat(timespec="seconds"), [*command], machine, blas, comparisons)


async def _compare(servers: Sequence[Server], clients: int, plan: Plan) -> Comparison:
    rounds: dict[str, list[Round]] = {server.name: [] for server in servers}
    warm_up = [long_story(0) for _ in range(clients)]
    for server in servers:
        await all_at_once(server, _requests(server, warm_up, WARM_UP_TOKENS), least_pieces=1)
    for _ in range(plan.rounds):
        prompts = [long_story(plan.prompt_tokens) for _ in range(clients)]
        for server in servers:
            idle = [other for other in servers if other is not server]
            rounds[server.name].append(await _turn(server, idle, prompts, plan.tokens))
    comparison = compare(clients, rounds)
    print(table(comparison), end="\n\n", flush=True)
    return comparison


async def _turn(server: Server, idle: Sequence[Server], prompts: Sequence[list[Message]], tokens: int) -> Round:
    """One server answers all prompts at once while the others wait."""
    before = CpuClock.read([server], idle)
    streams = await all_at_once(server, _requests(server, prompts, tokens))
    after = CpuClock.read([server], idle)
    seconds = after.wall - before.wall
    return Round(
        figures(streams),
        [stream.prompt_tokens for stream in streams],
        [stream.tokens for stream in streams],
        idle_cpu_cores=(after.idle - before.idle) / seconds,
        foreign_cpu_cores=(after.foreign - before.foreign) / seconds,
    )


def _requests(server: Server, prompts: Sequence[list[Message]], tokens: int) -> list[ChatRequest]:
    return [ChatRequest(server.model, messages, tokens) for messages in prompts]


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m loadtests.compare", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=_counts, default=Plan.clients, help="comma-separated (default: 1,8)")
    parser.add_argument("--tokens", type=int, default=Plan.tokens, help="per answer (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=Plan.prompt_tokens, help="about (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="turns of each server (default: %(default)s)")
    parser.add_argument("--only", choices=[GATEWAY, MLX_LM], help="measure one server alone")
    parser.add_argument("--store", type=Path, default=load_config().store_directory, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure there")
    options = vars(parser.parse_args(arguments))
    json_file = options.pop("json")
    options["store"] = options["store"].absolute()
    report = asyncio.run(run_comparison(Plan(**options), ["python", "-m", "loadtests.compare", *arguments]))
    if json_file:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    return 0


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(count) for count in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
