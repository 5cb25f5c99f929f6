"""Who may use the admin routes: programs on this machine, as long as there are no API keys.

A web page that a browser on this machine shows is no such program. It may send requests here, but they carry its
origin; and a name that it has resolved to this machine (DNS rebinding) is not one of this machine's own.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import Request

from gateway.errors import OperatorOnly


def operator_only(request: Request) -> None:
    """Raises `OperatorOnly` for anybody on another machine, and for web pages that are not this server's own."""
    headers = request.headers
    here = request.client is not None and _is_loopback(request.client.host) and _is_loopback(request.url.hostname or "")
    origin = headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
    if not here or foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise OperatorOnly


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
