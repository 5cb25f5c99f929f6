"""Errors as OpenAI's API words them: a status, and `{"error": {"message", "type", "param", "code"}}`.

Source: OpenAI API reference, "Error codes"; `context_length_exceeded` and its message's wording are what
clients look for.
"""

from dataclasses import dataclass

import msgspec

from gateway.errors import (
    BodyTooLarge,
    ContextLengthExceeded,
    DownloadNotKnown,
    DownloadRefused,
    GatewayError,
    GrammarsUnavailable,
    InsufficientStorage,
    InvalidRequest,
    ModelBusy,
    ModelDoesNotFit,
    ModelNotFound,
    ModelNotPrepared,
    ModelStoreError,
    ModelUnavailable,
    NotStored,
    OperatorOnly,
    Overloaded,
    RequestNotKnown,
    RequestTooLarge,
    ShuttingDown,
    UnsupportedParameter,
    UploadConflict,
    UploadNotKnown,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamsDown,
)


@dataclass(frozen=True, slots=True)
class WireStatus:
    http_status: int
    type: str
    code: str | None


# The first class that fits decides, so subclasses stand before their parents.
STATUS_BY_ERROR: tuple[tuple[type[GatewayError], WireStatus], ...] = (
    (ContextLengthExceeded, WireStatus(400, "invalid_request_error", "context_length_exceeded")),
    (RequestTooLarge, WireStatus(400, "invalid_request_error", "request_too_large")),
    (RequestNotKnown, WireStatus(404, "invalid_request_error", "request_not_known")),
    (DownloadNotKnown, WireStatus(404, "invalid_request_error", "download_not_known")),
    (UploadNotKnown, WireStatus(404, "invalid_request_error", "upload_not_known")),
    (UploadConflict, WireStatus(409, "invalid_request_error", "upload_conflict")),
    (OperatorOnly, WireStatus(403, "invalid_request_error", "operator_only")),
    (ModelNotFound, WireStatus(404, "invalid_request_error", "model_not_found")),
    (UnsupportedParameter, WireStatus(400, "invalid_request_error", "unsupported_parameter")),
    (InvalidRequest, WireStatus(400, "invalid_request_error", "invalid_value")),
    (BodyTooLarge, WireStatus(413, "invalid_request_error", "body_too_large")),
    (Overloaded, WireStatus(429, "rate_limit_error", "server_overloaded")),
    (ModelBusy, WireStatus(409, "invalid_request_error", "model_busy")),
    (ModelDoesNotFit, WireStatus(503, "server_error", "model_does_not_fit")),
    (ModelUnavailable, WireStatus(503, "server_error", "model_unavailable")),
    (NotStored, WireStatus(404, "invalid_request_error", "not_stored")),
    (DownloadRefused, WireStatus(403, "invalid_request_error", "download_refused")),
    (InsufficientStorage, WireStatus(507, "server_error", "insufficient_storage")),
    (ModelStoreError, WireStatus(503, "server_error", "model_unavailable")),
    (GrammarsUnavailable, WireStatus(503, "server_error", "grammars_unavailable")),
    (ShuttingDown, WireStatus(503, "server_error", "shutting_down")),
    (UpstreamFailed, WireStatus(502, "server_error", "upstream_failed")),
    (UpstreamRefused, WireStatus(502, "server_error", "upstream_refused")),
    (GatewayError, WireStatus(500, "server_error", None)),
)


class ErrorObject(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorObject


def wire_status(error: GatewayError) -> WireStatus:
    return next(status for kind, status in STATUS_BY_ERROR if isinstance(error, kind))


def error_body(error: GatewayError) -> ErrorBody:
    status = wire_status(error)
    param = error.param if isinstance(error, InvalidRequest) else None
    return ErrorBody(ErrorObject(str(error), status.type, param, status.code))


def error_headers(error: GatewayError) -> dict[str, str]:
    """`Retry-After` (seconds) where trying again makes sense, and where an upload goes on."""
    if isinstance(error, UploadConflict):
        return {"upload-offset": str(error.offset)}
    if isinstance(error, Overloaded | ModelNotPrepared | UpstreamsDown):
        return {"retry-after": str(error.retry_after_seconds)}
    return {"retry-after": "1"} if isinstance(error, ShuttingDown) else {}
