"""Who may change the server: keys with the scope admin, or, while no keys are needed, programs on this machine.

The middleware has already refused web pages and foreign host names of requests without a key (`security_guard`).
"""

from starlette.requests import Request

from gateway.errors import OperatorOnly, ScopeMissing
from gateway.security.caller import Caller, Scope
from gateway.security.http_guard import is_loopback


def operator_only(request: Request) -> None:
    """Raises `ScopeMissing` for other keys and `OperatorOnly` for anybody on another machine.

    What is let in here and changes something is written to the audit log.
    """
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller:
        if not caller.may(Scope.ADMIN):
            raise ScopeMissing(Scope.ADMIN)
    elif request.client is None or not is_loopback(request.client.host):
        raise OperatorOnly
    request.state.operator = True
