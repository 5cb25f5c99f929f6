"""Measures the engine against mlx_lm.server and against mlx-lm without any server, and says which goals are met.

    python -m loadtests.engine_figures --rounds 3 --json figures.json
    python -m loadtests.engine_figures --only stall,re_emit

The gateway runs as it is delivered, with a prefix cache that is empty at first, as mlx_lm.server's is. Prompts whose
computing is measured are new ones, and a run in which one of them was known is refused.

The exit status is 0 if everything could be measured, goals met or not.
"""

import resource
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from loadtests.contenders import Contenders, contenders
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
from loadtests.figure import Measured, Report
from loadtests.sections import add_section, command_line, introduce, run

MODULE = "loadtests.engine_figures"
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
OPEN_FILES = 8192


async def measure_sections(names: Sequence[str], rounds: int, store: Path, report: Report) -> None:
    """Adds each section to `report` when it is there, and prints it. `store` is absolute.

    Raises `UnusableRun` or `ServerFailed` if the contenders cannot be started.
    """
    async with contenders(store) as all_three:
        introduce(report, all_three.blas)
        for name in names:
            await add_section(report, name, _measured(name, all_three, rounds))


async def _measured(name: str, all_three: Contenders, rounds: int) -> Measured:
    await all_three.quiet()
    return await SECTIONS[name](all_three, rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = command_line(MODULE, __doc__, SECTIONS).parse_args(arguments)
    _allow_many_connections()

    async def measure(report: Report) -> None:
        await measure_sections(options.only, options.rounds, options.store.absolute(), report)

    return run(["python", "-m", MODULE, *arguments], options.json, measure)


def _allow_many_connections() -> None:
    """For this process and the servers, which inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
