"""Which log lines are wanted, decided on their bytes: a hundred thousand are searched without decoding one. Pure."""

import msgspec

from gateway.observability.log_line import LEVELS

LEVEL_WITHIN = 64
"""Bytes from a line's beginning: its level stands right after its time."""


def _encoded(text: str) -> bytes:
    return msgspec.json.encode(text.encode(errors="replace").decode())


class LogFilter:
    """`level` is the lowest wanted, `since` in Unix seconds; `search` may stand anywhere in a line's JSON, in any case
    of ASCII letters. Empty means all."""

    def __init__(
        self, level: str = "", search: str = "", request: str = "", model: str = "", since: float = 0.0
    ) -> None:
        self.since = since
        self._needle = _encoded(search)[1:-1].lower()
        # Quotes within a value are escaped, so these are found nowhere but where the field is.
        self._exact = [
            b'"%s":%s' % (name, _encoded(value)) for name, value in ((b"request", request), (b"model", model)) if value
        ]
        least = LEVELS.get(level, 0)
        dropped = [name for name, number in LEVELS.items() if number < least]
        self._dropped = [b'"level":"%s"' % name.encode() for name in dropped]

    def matches(self, line: bytes) -> bool:
        if self._needle and self._needle not in line.lower():
            return False
        for field in self._exact:
            if field not in line:
                return False
        for level in self._dropped:
            if line.find(level, 0, LEVEL_WITHIN) >= 0:
                return False
        return not self.since or line_time(line) >= self.since


def line_time(line: bytes) -> float:
    """0 for what is no log line."""
    try:
        return float(line[len(b'{"time":') : line.index(b",")])
    except ValueError:
        return 0.0
