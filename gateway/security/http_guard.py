"""Which requests are let in: plain functions of a request's path, headers and address.

A key proves a request by itself: no web page has it unless its user gave it one. Without a key, what a browser may be
tricked into is refused: a name that was made to resolve to this machine (DNS rebinding), or a foreign page's request.
"""

import re
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from gateway.config import ServerConfig
from gateway.errors import ConfigError
from gateway.security.caller import Scope

OPEN_PATHS = ("/", "/health/live", "/health/ready")
"""What supervisors and clients look at before they say anything; it tells nothing of anybody."""

ADMIN_PAGE = re.compile(r"/admin/?|/admin/ui/[^/]*")
"""A browser asks for the page before its user can give it a key."""

METRICS_PATH = "/metrics"
ADMIN_PREFIX = "/admin/"
BEARER = re.compile(r"bearer(\s+|$)", re.IGNORECASE)

Headers = Sequence[tuple[bytes, bytes]]


def needed_scope(method: str, path: str) -> Scope | None:
    """What a key must be good for to ask for this path; None for anybody. Unknown paths need a key too."""
    if path in OPEN_PATHS or (method in ("GET", "HEAD") and ADMIN_PAGE.fullmatch(path)):
        return None
    if path == METRICS_PATH:
        return Scope.METRICS
    return Scope.ADMIN if path.startswith(ADMIN_PREFIX) else Scope.INFERENCE


def credential(headers: Headers) -> str:
    """The bearer token, or what Anthropic's clients send instead; an empty bearer is none."""
    bearer = header(headers, b"authorization")
    begins = BEARER.match(bearer)
    token = bearer[begins.end() :].strip() if begins else ""
    return token or header(headers, b"x-api-key").strip()


def header(headers: Headers, name: bytes) -> str:
    """The first of that name (in lower case), or nothing."""
    return next((value.decode("latin-1") for key, value in headers if key == name), "")


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_is_ours(host_headers: Sequence[str], names: Collection[str]) -> bool:
    """Whether a Host header is an address, which cannot be rebound, or a name that this server is known by.

    `names` are the configured ones; "*" allows all. Without a Host it is no browser.
    """
    if len(host_headers) > 1:
        return False
    if not host_headers or "*" in names:
        return True
    try:
        host = (urlsplit(f"//{host_headers[0]}").hostname or "").rstrip(".")
    except ValueError:
        return False
    try:
        ip_address(host)
    except ValueError:
        return host == "localhost" or host in {name.lower() for name in names}
    return True


def is_foreign_page(headers: Headers, allowed_origins: Collection[str]) -> bool:
    """Whether a web page of another origin than this server's sent the request."""
    origin = header(headers, b"origin")
    if origin and (origin in allowed_origins or "*" in allowed_origins):
        return False
    if origin and _place(origin) != header(headers, b"host"):
        return True
    return header(headers, b"sec-fetch-site") not in ("", "none", "same-origin")


def _place(url: str) -> str:
    """Host and port."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def estimated_tokens(headers: Headers) -> int:
    """Of a request's body by its declared length; four bytes of English text or JSON are about a token."""
    declared = header(headers, b"content-length")
    return int(declared) // 4 if declared.isascii() and declared.isdigit() and len(declared) < 12 else 0


def check_network(server: ServerConfig, *, has_keys: bool) -> None:
    """A server that other machines can reach needs keys, or must be asked for by name. Raises `ConfigError`."""
    if not is_loopback(server.host) and not has_keys and not server.allow_open_network:
        raise ConfigError(
            f"server.host {server.host!r} is reachable from other machines and anyone there could use the models. "
            "Make a key first (`mlx-gateway keys create --name NAME --scope admin`), or set server.allow_open_network "
            "= true if it is to be open, or use 127.0.0.1."
        )
