"""From streams to figures, and from figures to a table. Pure functions; seconds and tokens per second throughout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from loadtests.machine import Machine
from loadtests.streaming_client import ChatStream

# field of `Figures` -> how the table words it
ROWS = {
    "ttft_seconds": "time to first token, s (less is better)",
    "decode_tokens_per_second": "decode, tokens/s per client",
    "aggregate_tokens_per_second": "all clients and phases, tokens/s",
    "longest_gap_seconds": "longest gap between tokens, s (less is better)",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one round, or the medians of several.

    Time to first token and decode speed are the median client's; the aggregate is all tokens over the wall time,
    prompts included; the gap is the longest that any client saw.
    """

    ttft_seconds: float
    decode_tokens_per_second: float
    aggregate_tokens_per_second: float
    longest_gap_seconds: float


@dataclass(frozen=True, slots=True)
class Round:
    """One server's turn. Token counts are one per client, as the server states them.

    `idle_cpu_cores` is what the server that had to wait used meanwhile, `foreign_cpu_cores` what programs did that have
    no part in this: MLX's CPU backend loses many times their share, so a round with much of it says little.
    """

    figures: Figures
    prompt_tokens: list[int]
    tokens: list[int]
    idle_cpu_cores: float
    foreign_cpu_cores: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One client count. `medians` and `rounds` are by server; `ratios` are gateway over mlx_lm, if both ran.

    A ratio is the median of the rounds' ratios: each compares two turns that followed one another.
    """

    clients: int
    medians: dict[str, Figures]
    ratios: Figures | None
    rounds: dict[str, list[Round]]


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds. `blas` is what all servers use."""

    date: str
    command: list[str]
    machine: Machine
    blas: str
    comparisons: list[Comparison]


def figures(streams: Sequence[ChatStream]) -> Figures:
    """The figures of streams that ran together; each must have had two pieces of content or more."""
    began = min(stream.started for stream in streams)
    ended = max(stream.ended for stream in streams)
    gaps = (later - earlier for stream in streams for earlier, later in pairwise(stream.content_times))
    return Figures(
        ttft_seconds=median(stream.content_times[0] - stream.started for stream in streams),
        decode_tokens_per_second=median(_decode_speed(stream) for stream in streams),
        aggregate_tokens_per_second=sum(stream.tokens for stream in streams) / (ended - began),
        longest_gap_seconds=max(gaps),
    )


def compare(clients: int, rounds: dict[str, list[Round]]) -> Comparison:
    """`rounds` holds one server or two, the one to be judged first."""
    medians = {name: _each_figure(median, [turn.figures for turn in turns]) for name, turns in rounds.items()}
    ratios = None
    if len(rounds) == 2:
        pairs = zip(*rounds.values(), strict=True)
        ratios = _each_figure(median, [_each_figure(_quotient, [a.figures, b.figures]) for a, b in pairs])
    return Comparison(clients, medians, ratios, rounds)


def table(comparison: Comparison) -> str:
    """Plain text: a row per figure, a column per server, then the ratio and what was really generated."""
    names, rounds = list(comparison.medians), list(comparison.rounds.values())
    lines = [_row(f"clients: {comparison.clients}", [*names, " / ".join(names) if comparison.ratios else ""])]
    for field, words in ROWS.items():
        cells = [f"{getattr(of_server, field):.3f}" for of_server in comparison.medians.values()]
        lines.append(_row(words, [*cells, f"{getattr(comparison.ratios, field):.2f}" if comparison.ratios else ""]))
    for words, counts in (
        ("prompt tokens", [_span(turns, "prompt_tokens") for turns in rounds]),
        ("tokens generated", [_span(turns, "tokens") for turns in rounds]),
        ("CPU of the other server meanwhile, cores", [_most(turns, "idle_cpu_cores") for turns in rounds]),
        ("CPU of other programs meanwhile, cores", [_most(turns, "foreign_cpu_cores") for turns in rounds]),
    ):
        lines.append(_row(words, counts))
    return "\n".join(lines)


def _decode_speed(stream: ChatStream) -> float:
    return (stream.tokens - 1) / (stream.content_times[-1] - stream.content_times[0])


def _each_figure(function: Callable[[Sequence[float]], float], several: Sequence[Figures]) -> Figures:
    return Figures(**{field: function([getattr(one, field) for one in several]) for field in ROWS})


def _quotient(pair: Sequence[float]) -> float:
    return pair[0] / pair[1]


def _row(words: str, cells: Sequence[str]) -> str:
    return f"{words:<50}" + "".join(f"{cell:>18}" for cell in cells).rstrip()


def _span(turns: Sequence[Round], field: str) -> str:
    counts = [count for turn in turns for count in getattr(turn, field)]
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _most(turns: Sequence[Round], field: str) -> str:
    return f"{max(getattr(turn, field) for turn in turns):.2f}"
