"""Who asks, as far as a request's headers tell: the session that shares fairly with others, and a wished priority."""

from hashlib import blake2b

from starlette.requests import Request

from gateway.errors import InvalidRequest
from gateway.generation.request import LONGEST_SESSION_NAME, Origin, Priority
from gateway.observability.request_record import current_record
from gateway.security.caller import Caller
from gateway.security.http_guard import credential

SESSION_HEADERS = ("x-session-id", "x-session-affinity", "x-claude-code-session-id", "session-id")
"""What agents send, in the order of preference: opencode and others, proxies, Claude Code, codex."""

PRIORITY_HEADER = "x-priority"


def request_origin(request: Request, session_hint: str = "") -> Origin:
    """Without a session header, requests with the same key, address, program and `session_hint` are one session.

    Raises `InvalidRequest` for an unknown priority.
    """
    named = next((request.headers[name] for name in SESSION_HEADERS if request.headers.get(name)), None)
    key = blake2b(credential(request.headers.raw).encode(), digest_size=8).hexdigest()
    address = request.client.host if request.client else ""
    session = named or f"{address} {key} {request.headers.get('user-agent', '')}"
    current_record().session = named[:LONGEST_SESSION_NAME] if named else _unnamed(session, session_hint)
    priority = _within_class_of_key(request, _priority(request.headers.get(PRIORITY_HEADER)))
    request_id, charge = getattr(request.state, "request_id", ""), getattr(request.state, "charge", None)
    origin = Origin(session[:LONGEST_SESSION_NAME], priority, request_id, key, charge)
    return origin.within(session_hint) if session_hint and not named else origin


def _unnamed(session: str, hint: str) -> str:
    """What the log calls a session that has no name: addresses and hints are no business of its readers."""
    return blake2b(f"{session} {hint}".encode(errors="replace"), digest_size=6).hexdigest()


def charge_tokens(request: Request, tokens: int) -> None:
    """To the request's key, where its `Origin` does not go along."""
    charge = getattr(request.state, "charge", None)
    if charge:
        charge(tokens)


def _within_class_of_key(request: Request, wished: Priority | None) -> Priority | None:
    """A key's class stands for what its requests do not say, and they cannot go before it."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if not caller or not caller.priority:
        return wished
    of_key = Priority[caller.priority.upper()]
    return of_key if wished is None else max(wished, of_key)


def _priority(wished: str | None) -> Priority | None:
    if not wished:
        return None
    try:
        return Priority[wished.strip().upper()]
    except KeyError:
        names = ", ".join(priority.name.lower() for priority in Priority)
        raise InvalidRequest(
            f"{PRIORITY_HEADER} is {wished[:40]!r}, but must be one of: {names}.", PRIORITY_HEADER
        ) from None
