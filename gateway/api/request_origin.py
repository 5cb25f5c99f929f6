"""Who asks, as far as a request's headers tell: the session that shares fairly with others, and a wished priority."""

from hashlib import blake2b

from starlette.requests import Request

from gateway.errors import InvalidRequest
from gateway.generation.request import LONGEST_SESSION_NAME, Origin, Priority

SESSION_HEADERS = ("x-session-id", "x-session-affinity", "x-claude-code-session-id", "session-id")
"""What agents send, in the order of preference: opencode and others, proxies, Claude Code, codex."""

PRIORITY_HEADER = "x-priority"


def request_origin(request: Request, session_hint: str = "") -> Origin:
    """Without a session header, requests with the same key, address, program and `session_hint` are one session.

    Raises `InvalidRequest` for an unknown priority.
    """
    named = next((request.headers[name] for name in SESSION_HEADERS if request.headers.get(name)), None)
    key = blake2b(_credential(request).encode(), digest_size=8).hexdigest()
    address = request.client.host if request.client else ""
    session = named or f"{address} {key} {request.headers.get('user-agent', '')}"
    priority = _priority(request.headers.get(PRIORITY_HEADER))
    origin = Origin(session[:LONGEST_SESSION_NAME], priority, getattr(request.state, "request_id", ""), key)
    return origin.within(session_hint) if session_hint and not named else origin


def _credential(request: Request) -> str:
    """The bearer token, or what Anthropic's clients send instead; an empty bearer is none."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer").strip()
    return bearer or request.headers.get("x-api-key", "")


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
