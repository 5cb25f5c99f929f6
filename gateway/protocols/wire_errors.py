"""Errors as OpenAI's API words them: a status, and `{"error": {"message", "type", "param", "code"}}`.

Source: OpenAI API reference, "Error codes"; `context_length_exceeded` and its message's wording are what
clients look for.
"""

from dataclasses import dataclass

import msgspec

from gateway.errors import (
    ApiKeyNotKnown,
    ApiKeyWrong,
    BodyTooLarge,
    ContextLengthExceeded,
    CrashNotKnown,
    DownloadNotKnown,
    DownloadRefused,
    GatewayError,
    GrammarsUnavailable,
    HostNotAllowed,
    InsufficientStorage,
    InvalidRequest,
    MemoryUnderPressure,
    ModelBusy,
    ModelDoesNotFit,
    ModelNotFound,
    ModelNotPrepared,
    ModelStoreError,
    ModelUnavailable,
    NotStored,
    OperatorOnly,
    OriginNotAllowed,
    Overloaded,
    RateLimited,
    RequestCancelled,
    RequestNotKnown,
    RequestTooLarge,
    ScopeMissing,
    ShuttingDown,
    UnsupportedParameter,
    UploadConflict,
    UploadNotKnown,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamsDown,
    UsageUnavailable,
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
    (RequestCancelled, WireStatus(409, "invalid_request_error", "request_cancelled")),
    (RequestNotKnown, WireStatus(404, "invalid_request_error", "request_not_known")),
    (DownloadNotKnown, WireStatus(404, "invalid_request_error", "download_not_known")),
    (UploadNotKnown, WireStatus(404, "invalid_request_error", "upload_not_known")),
    (UploadConflict, WireStatus(409, "invalid_request_error", "upload_conflict")),
    (ApiKeyNotKnown, WireStatus(404, "invalid_request_error", "api_key_not_known")),
    (ApiKeyWrong, WireStatus(401, "invalid_request_error", "invalid_api_key")),
    (ScopeMissing, WireStatus(403, "invalid_request_error", "insufficient_scope")),
    (HostNotAllowed, WireStatus(421, "invalid_request_error", "host_not_allowed")),
    (OriginNotAllowed, WireStatus(403, "invalid_request_error", "origin_not_allowed")),
    (RateLimited, WireStatus(429, "rate_limit_error", "rate_limit_exceeded")),
    (OperatorOnly, WireStatus(403, "invalid_request_error", "operator_only")),
    (ModelNotFound, WireStatus(404, "invalid_request_error", "model_not_found")),
    (UnsupportedParameter, WireStatus(400, "invalid_request_error", "unsupported_parameter")),
    (InvalidRequest, WireStatus(400, "invalid_request_error", "invalid_value")),
    (BodyTooLarge, WireStatus(413, "invalid_request_error", "body_too_large")),
    (Overloaded, WireStatus(429, "rate_limit_error", "server_overloaded")),
    (MemoryUnderPressure, WireStatus(503, "server_error", "memory_pressure")),
    (ModelBusy, WireStatus(409, "invalid_request_error", "model_busy")),
    (ModelDoesNotFit, WireStatus(503, "server_error", "model_does_not_fit")),
    (ModelUnavailable, WireStatus(503, "server_error", "model_unavailable")),
    (NotStored, WireStatus(404, "invalid_request_error", "not_stored")),
    (DownloadRefused, WireStatus(403, "invalid_request_error", "download_refused")),
    (InsufficientStorage, WireStatus(507, "server_error", "insufficient_storage")),
    (ModelStoreError, WireStatus(503, "server_error", "model_unavailable")),
    (GrammarsUnavailable, WireStatus(503, "server_error", "grammars_unavailable")),
    (CrashNotKnown, WireStatus(404, "invalid_request_error", "crash_not_known")),
    (UsageUnavailable, WireStatus(503, "server_error", "usage_unavailable")),
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
    if isinstance(error, ApiKeyWrong):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, Overloaded | RateLimited | ModelNotPrepared | UpstreamsDown | MemoryUnderPressure):
        return {"retry-after": str(error.retry_after_seconds)}
    return {"retry-after": "1"} if isinstance(error, ShuttingDown) else {}
