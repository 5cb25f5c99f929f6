"""Who may use the admin routes: programs on this machine, as long as there are no API keys."""

from ipaddress import ip_address

from starlette.requests import Request

from gateway.errors import OperatorOnly


def operator_only(request: Request) -> None:
    """Raises `OperatorOnly` for anybody on another machine."""
    try:
        here = request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        here = False
    if not here:
        raise OperatorOnly
