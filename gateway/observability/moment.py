"""Times as people write them."""

import re
from datetime import datetime

from gateway.errors import InvalidRequest

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
AGO = re.compile(r"(\d{1,6})([smhdw])")


def moment(text: str, now: float, field: str) -> float:
    """Unix seconds of `7d` (ago; also s, m, h, w), of a date and time as ISO 8601 has it, or of Unix seconds.

    `now` is in Unix seconds. Raises `InvalidRequest` that names the `field`.
    """
    if ago := AGO.fullmatch(text):
        return now - int(ago[1]) * SECONDS[ago[2]]
    try:
        return float(text) if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text) else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise InvalidRequest(
            f"{field} is {text[:40]!r}, but must be like 7d, 24h, 2026-01-31, 2026-01-31T12:00 or Unix seconds.", field
        ) from None
