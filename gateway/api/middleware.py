"""What happens to every request around its endpoint: an id, a log line and a metric, a body limit, errors in
their protocol's shape."""

import logging
from collections.abc import Callable, Sequence
from secrets import token_hex

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.error_response import error_response
from gateway.errors import BodyTooLarge, GatewayError, UnexpectedError
from gateway.observability.client_family import client_family
from gateway.observability.metrics import Metrics
from gateway.observability.request_record import CURRENT, EndedRequest, RequestRecord
from gateway.observability.tracing import Tracing, traceparent

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""The status filed for a client that left before its answer began (nginx's number for it)."""

PROBED_ROUTES = ("/health/live", "/health/ready", "/metrics")
"""Asked every few seconds by supervisors and Prometheus; not worth a line each."""


Ended = Callable[[EndedRequest], None]
"""Hears of the end of every request that a model was to serve."""


class RequestScope:
    """Outermost: names the request, files its outcome, and answers for errors that nobody else handled."""

    def __init__(self, app: ASGIApp, metrics: Metrics, ended: Sequence[Ended], tracing: Tracing | None) -> None:
        self._app = app
        self._tracing = tracing
        self._ended = ended
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = request_id
        record = RequestRecord(request_id, client_family(Request(scope).headers.get("user-agent", "")))
        span = self._tracing.begin(Request(scope).headers) if self._tracing else None
        if span:
            record.trace = traceparent(span)
        token = CURRENT.set(record)
        status = CLIENT_CLOSED_REQUEST

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                record.complete = True

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass
        except Exception as error:
            record.error = record.error or type(error).__name__
            log.exception("request failed")
            if status == CLIENT_CLOSED_REQUEST:
                await self._answer_for(error, scope, receive, send_with_id)
        finally:
            ended = self._file(scope, record, status)
            if self._tracing and span:
                self._tracing.end(span, ended)
            CURRENT.reset(token)

    async def _answer_for(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        known = error if isinstance(error, GatewayError) else UnexpectedError()
        await error_response(known, scope)(scope, receive, send)

    def _file(self, scope: Scope, record: RequestRecord, status: int) -> EndedRequest:
        route = getattr(scope.get("route"), "path", "unknown")
        method = _known_method(scope["method"])
        caller = scope["state"].get("caller")
        ended = record.end(method, route, status, getattr(caller, "key_id", ""), getattr(caller, "name", ""))
        self._metrics.http_requests.labels(route, method, status).inc()
        if ended.served:
            for tell in self._ended:
                tell(ended)
        level = logging.DEBUG if route in PROBED_ROUTES else logging.INFO
        log.log(level, "%s %s %d %s", method, route, status, ended.outcome, extra=_said(ended))
        return ended


class BodyLimit:
    """Refuses bodies over `limit_bytes` as soon as that is known, by their declared length or while they arrive."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Request(scope).headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._limit_bytes:
            await error_response(BodyTooLarge(self._limit_bytes), scope)(scope, receive, send)
            return
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit_bytes:
                raise BodyTooLarge(self._limit_bytes)
            return message

        await self._app(scope, counting_receive, send)


def _known_method(method: str) -> str:
    """A label's values must come from a fixed set."""
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"


def _said(ended: EndedRequest) -> dict[str, object]:
    """What the closing line of a request tells, without what is not known of it."""
    fields: dict[str, object] = {
        "request": ended.id,
        "model": ended.model,
        "session": ended.session,
        "client": ended.client,
        "key": ended.key,
        "error": ended.error,
        "seconds": round(ended.seconds, 3),
    }
    if ended.served:
        fields["finish_reason"] = ended.finish_reason
        fields["prompt_tokens"] = ended.prompt_tokens
        fields["cached_tokens"] = ended.cached_tokens
        fields["generated_tokens"] = ended.generated_tokens
        if ended.queue_seconds is not None:
            fields["queue_seconds"] = round(ended.queue_seconds, 3)
        if ended.first_token_seconds is not None:
            fields["first_token_seconds"] = round(ended.first_token_seconds, 3)
    return {name: value for name, value in fields.items() if value != ""}
