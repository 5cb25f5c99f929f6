"""Which program a request comes from, by its User-Agent header: a short plain name."""

import re

KNOWN = (
    ("claude-cli", "Claude Code"),
    ("codex", "codex"),
    ("opencode", "opencode"),
    ("cline", "Cline"),
    ("continue", "Continue"),
    ("aider", "aider"),
    ("zed", "Zed"),
    ("mozilla", "browser"),
)
PRODUCT = re.compile(r"[A-Za-z0-9._-]{1,40}")


def client_family(user_agent: str) -> str:
    """A known agent's name, else the first product that the header names, without its version; "" for none."""
    lower = user_agent.lower()
    for begin, name in KNOWN:
        if lower.startswith(begin):
            return name
    product = PRODUCT.match(user_agent)
    return product.group().lower() if product else ""
