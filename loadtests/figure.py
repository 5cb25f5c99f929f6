"""Figures, their goals, and how they are told. Pure values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import median

from loadtests.machine import Machine


@dataclass(frozen=True, slots=True)
class Goal:
    bound: float
    at_least: bool

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


def at_least(bound: float) -> Goal:
    return Goal(bound, at_least=True)


def at_most(bound: float) -> Goal:
    return Goal(bound, at_least=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` sums up `rounds`, one each; `met` is None where there is no goal."""

    what: str
    value: float
    rounds: list[float]
    goal: Goal | None = None
    met: bool | None = None

    def __str__(self) -> str:
        spread = f"{min(self.rounds):.3f} to {max(self.rounds):.3f}" if len(self.rounds) > 1 else ""
        verdict = f"goal {self.goal}: {'met' if self.met else 'MISSED'}" if self.goal else ""
        return f"  {self.what:<68}{self.value:>10.3f}  {spread:<22}{verdict}".rstrip()


@dataclass(frozen=True, slots=True)
class Measured:
    """`notes` say what else the reader must know to trust the figures."""

    figures: list[Figure]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Section:
    """One row of the table of goals. `failure` says why there are no figures.

    `foreign_cpu_cores` is what programs used meanwhile that have no part in this: with much of it, the figures say
    little.
    """

    name: str
    measured: Measured
    seconds: float
    foreign_cpu_cores: float
    failure: str = ""

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.seconds:.0f} s; other programs used {self.foreign_cpu_cores:.2f} cores)"]
        lines += map(str, self.measured.figures)
        lines += [f"  {note}" for note in self.measured.notes]
        return "\n".join([*lines, f"  FAILED: {self.failure}"] if self.failure else lines)


@dataclass(slots=True)
class Report:
    """What the JSON file holds; it grows with each section. `blas` is what every process uses, known when they run."""

    date: str
    command: list[str]
    machine: Machine
    blas: str = ""
    sections: list[Section] = field(default_factory=list)


def median_of(what: str, rounds: Sequence[float], goal: Goal | None = None) -> Figure:
    return _figure(what, median(rounds), rounds, goal)


def worst_of(what: str, rounds: Sequence[float], goal: Goal) -> Figure:
    return _figure(what, min(rounds) if goal.at_least else max(rounds), rounds, goal)


def each(what: str, samples: Mapping[str, Sequence[float]]) -> list[Figure]:
    """A figure for each contender."""
    return [median_of(f"{name}: {what}", rounds) for name, rounds in samples.items()]


def ratio(samples: Mapping[str, Sequence[float]], ours: str, theirs: str, goal: Goal | None = None) -> Figure:
    """The median of the rounds' ratios: each compares two turns of one round."""
    pairs = zip(samples[ours], samples[theirs], strict=True)
    return median_of(f"{ours} / {theirs}", [mine / other for mine, other in pairs], goal)


def span(counts: Sequence[int] | Sequence[Sequence[int]]) -> str:
    """`3` or `3 to 5`; of nested counts, all of them."""
    flat = list(chain.from_iterable([count] if isinstance(count, int) else count for count in counts))
    return str(min(flat)) if min(flat) == max(flat) else f"{min(flat)} to {max(flat)}"


def _figure(what: str, value: float, rounds: Sequence[float], goal: Goal | None) -> Figure:
    return Figure(what, value, list(rounds), goal, goal.met_by(value) if goal else None)
