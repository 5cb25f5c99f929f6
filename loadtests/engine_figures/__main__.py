"""Measures the engine against mlx_lm.server and against mlx-lm without any server, and says which goals are met.

    python -m loadtests.engine_figures --rounds 3 --json figures.json
    python -m loadtests.engine_figures --only stall,re_emit

The exit status is 0 if everything could be measured, goals met or not.
"""

import argparse
import asyncio
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.config import load_config
from loadtests.engine_figures import (
    connections,
    http_cpu,
    one_client,
    prefill,
    re_emit,
    samplers,
    stall,
    throughput,
)
from loadtests.engine_figures.contenders import Contenders, contenders
from loadtests.engine_figures.figure import Measured, Report, Section
from loadtests.machine import this_machine
from loadtests.servers import ServerFailed
from loadtests.turns import UnusableRun

SECTIONS: dict[str, Callable[[Contenders, int], Awaitable[Measured]]] = {
    "stall": stall.measure,
    "prefill": prefill.measure,
    "throughput": throughput.measure,
    "samplers": samplers.measure,
    "one_client": one_client.measure,
    "re_emit": re_emit.measure,
    "connections": connections.measure,
    "http_cpu": http_cpu.measure,
}
ROUNDS = 3
OPEN_FILES = 8192


async def measure_sections(names: Sequence[str], rounds: int, store: Path, report: Report) -> None:
    """Adds each section to `report` when it is there, and prints it. `store` is absolute.

    Raises `UnusableRun` or `ServerFailed` if the contenders cannot be started.
    """
    machine = report.machine
    async with contenders(store) as all_three:
        report.blas = all_three.blas
        print(f"{machine.cpu}, {machine.cores} cores, load {machine.load_average} before; {report.blas}", flush=True)
        for name in names:
            section = await _section(name, all_three, rounds)
            report.sections.append(section)
            print(f"\n{section}", flush=True)


async def _section(name: str, all_three: Contenders, rounds: int) -> Section:
    measured, failure = Measured([]), ""
    began = time.perf_counter()
    before = all_three.cpu_clock()
    try:
        await all_three.quiet()
        before = all_three.cpu_clock()
        measured = await SECTIONS[name](all_three, rounds)
    except (UnusableRun, ServerFailed) as error:
        failure = str(error)
    after = all_three.cpu_clock()
    foreign = (after.foreign - before.foreign) / (after.wall - before.wall)
    return Section(name, measured, time.perf_counter() - began, foreign, failure)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m loadtests.engine_figures", description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=_sections, default=list(SECTIONS), help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--store", type=Path, default=load_config().store_directory, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure there")
    options = parser.parse_args(arguments)
    _allow_many_connections()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # stops the servers too
    command = ["python", "-m", "loadtests.engine_figures", *arguments]
    report = Report(datetime.now(UTC).isoformat(timespec="seconds"), command, this_machine())
    try:
        asyncio.run(measure_sections(options.only, options.rounds, options.store.absolute(), report))
    except KeyboardInterrupt:
        return 130
    finally:  # an interrupted run keeps what it has
        if options.json:
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    return 1 if any(section.failure for section in report.sections) else 0


def _sections(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(SECTIONS)):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    return names


def _allow_many_connections() -> None:
    """For this process and the servers, which inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
