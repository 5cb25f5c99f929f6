"""Errors in the shape of the protocol that the path belongs to, also for requests that reach no endpoint."""

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from gateway.api.json_response import json_response
from gateway.errors import GatewayError
from gateway.observability.request_record import current_record
from gateway.protocols import anthropic_errors, wire_errors
from gateway.protocols.ollama_answer import ErrorLine

ANTHROPIC_PATHS = ("/v1/messages", "/messages")

OLLAMA_PATHS = ("/api",)
LM_STUDIO_PATHS = ("/api/v0", "/api/v1")
"""Which has OpenAI's shape."""

ROUTING_CODES = {404: "unknown_url", 405: "method_not_allowed"}


def error_response(error: GatewayError, scope: Scope) -> Response:
    current_record().error = type(error).__name__
    headers = wire_errors.error_headers(error)
    body: object = wire_errors.error_body(error)
    if _is_anthropic(scope):
        headers |= anthropic_headers(scope)
        body = anthropic_errors.error_body(error, _request_id(scope))
    elif _is_ollama(scope):
        body = ErrorLine(str(error))
    return json_response(body, wire_errors.wire_status(error).http_status, headers)


def routing_error_response(error: HTTPException, scope: Scope) -> Response:
    """An unknown path, a wrong method."""
    status = error.status_code
    message = f"{error.detail}: {scope['method']} {scope['path']}. The API's base URL ends in /v1."
    headers = dict(error.headers or {})
    body: object = wire_errors.ErrorBody(
        wire_errors.ErrorObject(message, "invalid_request_error", None, ROUTING_CODES.get(status))
    )
    if _is_anthropic(scope):
        headers |= anthropic_headers(scope)
        kind = anthropic_errors.error_type(status)
        body = anthropic_errors.ErrorBody(anthropic_errors.ErrorObject(kind, message), _request_id(scope))
    elif _is_ollama(scope):
        body = ErrorLine(f"{error.detail}: {scope['method']} {scope['path']}.")
    return json_response(body, status, headers)


def anthropic_headers(scope: Scope) -> dict[str, str]:
    """The request's id under the name that Anthropic's clients look for."""
    request_id = _request_id(scope)
    return {"request-id": request_id} if request_id else {}


def _request_id(scope: Scope) -> str | None:
    request_id: str | None = scope.get("state", {}).get("request_id")
    return request_id


def _is_anthropic(scope: Scope) -> bool:
    return _is_under(scope, ANTHROPIC_PATHS)


def _is_ollama(scope: Scope) -> bool:
    return _is_under(scope, OLLAMA_PATHS) and not _is_under(scope, LM_STUDIO_PATHS)


def _is_under(scope: Scope, prefixes: Sequence[str]) -> bool:
    path: str = scope["path"]
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)
