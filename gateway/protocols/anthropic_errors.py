"""Errors as Anthropic's API words them: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

Source: Anthropic API reference, "Errors". There is no field for a parameter's name, so the message begins with it.
"""

from typing import Literal

from msgspec import Struct

from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest, ShuttingDown
from gateway.protocols.wire_errors import wire_status

TYPE_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
OTHER_TYPE = "api_error"


class ErrorObject(Struct, frozen=True):
    type: str
    message: str


class ErrorBody(Struct, frozen=True):
    error: ErrorObject
    request_id: str | None = None
    type: Literal["error"] = "error"


def error_body(error: GatewayError, request_id: str | None = None) -> ErrorBody:
    kind = "overloaded_error" if isinstance(error, ShuttingDown) else error_type(wire_status(error).http_status)
    return ErrorBody(ErrorObject(kind, _message(error)), request_id)


def error_type(http_status: int) -> str:
    return TYPE_BY_STATUS.get(http_status, OTHER_TYPE)


def _message(error: GatewayError) -> str:
    """A prompt without room for an answer has Anthropic's own words for it, by which clients know to compact."""
    message = str(error)
    if isinstance(error, ContextLengthExceeded):
        return f"prompt is too long: {error.prompt_tokens} tokens > {error.context_tokens} maximum. {message}"
    if isinstance(error, InvalidRequest) and error.param and error.param not in message:
        return f"{error.param}: {message}"
    return message
