"""Telling clients what of their request had no effect."""

import re
from collections.abc import Sequence

MOST_NAMES = 20
ODD_CHARACTERS = re.compile(r"[^\w.\-\[\]]", re.ASCII)


def plain_name(name: str) -> str:
    """A name that a client chose, fit for a header."""
    return ODD_CHARACTERS.sub("_", name[:64])


def warning_headers(ignored: Sequence[str], also: Sequence[str] = ()) -> dict[str, str]:
    """A `Warning` header (RFC 7234, section 5.5, code 299) that names the ignored fields and says what else is worth a
    warning; none if there is nothing to say. Names come from the client: nothing but letters of names gets through."""
    sentences = list(also)
    if ignored:
        names = ", ".join(map(plain_name, ignored[:MOST_NAMES]))
        more = f" and {len(ignored) - MOST_NAMES} more" if len(ignored) > MOST_NAMES else ""
        sentences.append(f"ignored parameters: {names}{more}")
    return {"warning": f'299 mlx-gateway "{"; ".join(sentences)}"'} if sentences else {}
