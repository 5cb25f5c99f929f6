"""Who asks, as far as a request's headers tell: the session that shares fairly with others, and a wished priority."""

from hashlib import blake2b

from starlette.requests import Request

from gateway.errors import InvalidRequest
from gateway.generation.request import LONGEST_SESSION_NAME, Origin, Priority

SESSION_HEADERS = ("x-session-id", "x-session-affinity", "x-claude-code-session-id", "session-id")
"""What agents send, in the order of preference: opencode and others, proxies, Claude Code, codex."""

PRIORITY_HEADER = "x-priority"


def request_origin(request: Request) -> Origin:
    """Without a session header, requests with the same key, address and program are one session.

    Raises `InvalidRequest` for an unknown priority.
    """
    session = next((request.headers[name] for name in SESSION_HEADERS if request.headers.get(name)), None)
    if session is None:
        address = request.client.host if request.client else ""
        key = blake2b(request.headers.get("authorization", "").encode(), digest_size=8).hexdigest()
        session = f"{address} {key} {request.headers.get('user-agent', '')}"
    priority = _priority(request.headers.get(PRIORITY_HEADER))
    return Origin(session[:LONGEST_SESSION_NAME], priority, getattr(request.state, "request_id", ""))


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
