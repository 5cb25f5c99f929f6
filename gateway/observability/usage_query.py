"""Sums over the usage history. Blocks: for threads and commands."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import InvalidRequest, UsageUnavailable

GROUPS = {
    "key": "key",
    "model": "model",
    "client": "client",
    "endpoint": "endpoint",
    "outcome": "outcome",
    "day": "date(at, 'unixepoch', 'localtime')",
    "hour": "strftime('%Y-%m-%dT%H:00', at, 'unixepoch', 'localtime')",
}
SUMS = {
    "requests": "count(*)",
    "unfinished": "coalesce(sum(outcome <> 'finished'), 0)",
    "prompt_tokens": "coalesce(sum(prompt_tokens), 0)",
    "cached_tokens": "coalesce(sum(cached_tokens), 0)",
    "generated_tokens": "coalesce(sum(generated_tokens), 0)",
    "mean_queue_seconds": "round(avg(queue_seconds), 4)",
    "mean_first_token_seconds": "round(avg(first_token_seconds), 4)",
    "mean_seconds": "round(avg(seconds), 4)",
}
MOST_GROUPS = 100_000


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Times are in Unix seconds; empty means all. `key` is a key's id or name."""

    since: float = 0.0
    until: float = 0.0
    key: str = ""
    model: str = ""
    client: str = ""
    group_by: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.group_by, *SUMS)


def group_names(text: str) -> tuple[str, ...]:
    """Of `key,model`. Raises `InvalidRequest`."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := next((name for name in names if name not in GROUPS), None):
        raise InvalidRequest(f"group_by has {unknown[:40]!r}, but may have: {', '.join(GROUPS)}.", "group_by")
    return names


def usage_rows(file: Path, query: UsageQuery) -> list[tuple[object, ...]]:
    """Rows of the query's columns, in the order of its groups. Raises `UsageUnavailable`."""
    if not file.exists():
        return []
    conditions, values = _conditions(query)
    chosen = [GROUPS[name] for name in query.group_by]
    grouping = f" GROUP BY {', '.join(chosen)} ORDER BY {', '.join(chosen)} LIMIT {MOST_GROUPS}" if chosen else ""
    # All that is not a bound value comes from the tables above.
    statement = f"SELECT {', '.join([*chosen, *SUMS.values()])} FROM requests WHERE {conditions}{grouping}"  # noqa: S608
    try:
        with closing(sqlite3.connect(file, timeout=2.0)) as database:
            database.execute("PRAGMA query_only=ON")
            return database.execute(statement, values).fetchall()
    except sqlite3.Error as error:
        raise UsageUnavailable(f"The usage history {file} cannot be read: {error}.") from error


def _conditions(query: UsageQuery) -> tuple[str, Sequence[object]]:
    parts: list[str] = ["1"]
    values: list[object] = []
    for condition, value in (
        ("at >= ?", query.since),
        ("at < ?", query.until),
        ("(key_id = ? OR key = ?)", query.key),
        ("model = ?", query.model),
        ("client = ?", query.client),
    ):
        if value:
            parts.append(condition)
            values += [value] * condition.count("?")
    return " AND ".join(parts), values
