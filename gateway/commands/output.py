"""What commands say: results on stdout, progress on stderr."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from gateway.model_store.store_folders import Report


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def say_table(rows: Sequence[Sequence[str]]) -> None:
    """The first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Yields what to tell the progress to; drawn on a terminal, else only its end is shown."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda fraction, doing: progress.update(task, completed=fraction, description=doing)
