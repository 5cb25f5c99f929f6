"""Measures what the model pool promises: models switch as fast as one loads, stall nobody and leave nobody out.

    python -m loadtests.pool_figures --rounds 3 --json figures.json
    python -m loadtests.pool_figures --only load_stall

The exit status is 0 if everything could be measured, goals met or not.
"""

import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from loadtests.figure import Measured, Report
from loadtests.model_folder import float32_folder
from loadtests.pool_figures import contention, load_stall, switch
from loadtests.sections import add_section, command_line, introduce, run
from loadtests.servers import gateway_server
from loadtests.turns import same_blas

MODULE = "loadtests.pool_figures"
SECTIONS: dict[str, Callable[[Path, Path, int], Awaitable[Measured]]] = {
    "switch": switch.measure,
    "load_stall": load_stall.measure,
    "contention": contention.measure,
}


async def measure_sections(names: Sequence[str], folder: Path, store: Path, rounds: int, report: Report) -> None:
    """Adds each section to `report` when it is there, and prints it.

    Raises `UnusableRun` or `ServerFailed` if the gateway cannot be started.
    """
    async with gateway_server(str(folder), store) as server:
        introduce(report, same_blas([server.log()]))
    for name in names:
        await add_section(report, name, SECTIONS[name](folder, store, rounds))


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = command_line(MODULE, __doc__, SECTIONS).parse_args(arguments)
    store = options.store.absolute()

    async def measure(report: Report) -> None:
        folder = await float32_folder(store, store / "benchmark")
        await measure_sections(options.only, folder, store, options.rounds, report)

    return run(["python", "-m", MODULE, *arguments], options.json, measure)


if __name__ == "__main__":
    sys.exit(main())
