"""What every `python -m loadtests.*_figures` does: its options, section after section, the report, the exit status."""

import argparse
import asyncio
import resource
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from gateway.config import load_config
from loadtests.figure import Measured, Report, Section
from loadtests.machine import this_machine
from loadtests.servers import ServerFailed
from loadtests.turns import UnusableRun

ROUNDS = 3


def command_line(module: str, about: str, sections: Iterable[str]) -> argparse.ArgumentParser:
    known = tuple(sections)

    def chosen(text: str) -> list[str]:
        names = text.split(",")
        if unknown := sorted(set(names) - set(known)):
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; choose from {', '.join(known)}")
        return names

    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about.splitlines()[0])
    parser.add_argument("--only", type=chosen, default=list(known), help=f"of {','.join(known)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often all is measured (default: %(default)s)")
    parser.add_argument("--store", type=Path, default=load_config().store_directory, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure there")
    return parser


def run(command: Sequence[str], json_file: Path | None, measure: Callable[[Report], Awaitable[None]]) -> int:
    """The exit status: 0 if everything could be measured, goals met or not."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # stops the servers too
    report = Report(datetime.now(UTC).isoformat(timespec="seconds"), [*command], this_machine())

    async def measured() -> None:
        await measure(report)

    try:
        asyncio.run(measured())
    except KeyboardInterrupt:
        return 130
    finally:  # an interrupted run keeps what it has
        if json_file:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    return 1 if any(section.failure for section in report.sections) else 0


def introduce(report: Report, blas: str) -> None:
    """Prints what is measured on; `blas` is what all processes use."""
    report.blas = blas
    machine = report.machine
    print(f"{machine.cpu}, {machine.cores} cores, load {machine.load_average} before; {blas}", flush=True)


async def add_section(report: Report, name: str, measuring: Awaitable[Measured]) -> None:
    """Awaits it, adds it to `report`, as a failure if it cannot be measured, and prints it."""
    measured, failure = Measured([]), ""
    before = _Clock.read()
    try:
        measured = await measuring
    except (UnusableRun, ServerFailed) as error:
        failure = str(error)
    after = _Clock.read()
    seconds = after.wall - before.wall
    section = Section(name, measured, seconds, (after.foreign - before.foreign) / seconds, failure)
    report.sections.append(section)
    print(f"\n{section}", flush=True)


@dataclass(frozen=True, slots=True)
class _Clock:
    """Seconds so far: by the wall, and of CPU by programs that are neither this one nor its descendants."""

    wall: float
    foreign: float

    @classmethod
    def read(cls) -> "_Clock":
        machine = psutil.cpu_times()
        used = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
        own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = sum(usage.ru_utime + usage.ru_stime for usage in (own, ended))
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                ours += times.user + times.system + times.children_user + times.children_system
        return cls(time.perf_counter(), used - ours)
