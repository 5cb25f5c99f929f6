"""Measures what the prefix cache promises: on the next turn, after restarts, kills and evictions, beside others.

    python -m loadtests.cache_figures --rounds 3 --json figures.json
    python -m loadtests.cache_figures --only next_turn,kill_writes --kills 5

Each section has gateways of its own, with prefix caches that are empty at first. The exit status is 0 if everything
could be measured, goals met or not.
"""

import sys
from collections.abc import Awaitable, Callable, Sequence

from loadtests.cache_figures import (
    attach,
    cancelled,
    decode_slowdown,
    edited,
    kill_writes,
    memory,
    next_turn,
    reload,
    restart_kill,
    restart_repeat,
    shared_system,
)
from loadtests.cache_figures.bench import Bench
from loadtests.cache_state import cache_state
from loadtests.figure import Measured, Report
from loadtests.model_folder import float32_folder
from loadtests.sections import add_section, command_line, introduce, run
from loadtests.turns import same_blas

MODULE = "loadtests.cache_figures"
SECTIONS: dict[str, Callable[[Bench], Awaitable[Measured]]] = {
    "next_turn": next_turn.measure,
    "restart_kill": restart_kill.measure,
    "restart_repeat": restart_repeat.measure,
    "reload": reload.measure,
    "shared_system": shared_system.measure,
    "edited": edited.measure,
    "cancelled": cancelled.measure,
    "attach": attach.measure,
    "decode_slowdown": decode_slowdown.measure,
    "memory": memory.measure,
    "kill_writes": kill_writes.measure,
}
KILLS = 50


async def measure_sections(names: Sequence[str], bench: Bench, report: Report) -> None:
    """Adds each section to `report` when it is there, and prints it.

    Raises `UnusableRun` or `ServerFailed` if the gateway cannot be started or tells nothing of a cache.
    """
    async with bench.gateway() as server:
        await cache_state(server)
        introduce(report, same_blas([server.log()]))
    for name in names:
        await add_section(report, name, SECTIONS[name](bench))


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command_line(MODULE, __doc__, SECTIONS)
    parser.add_argument("--kills", type=int, default=KILLS, help="of kill_writes (default: %(default)s)")
    options = parser.parse_args(arguments)
    store = options.store.absolute()

    async def measure(report: Report) -> None:
        folder = await float32_folder(store, store / "benchmark")
        await measure_sections(options.only, Bench(store, folder, options.rounds, options.kills), report)

    return run(["python", "-m", MODULE, *arguments], options.json, measure)


if __name__ == "__main__":
    sys.exit(main())
