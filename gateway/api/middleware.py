"""What happens to every request around its endpoint: an id, a log line and a metric, a body limit, errors in
their protocol's shape."""

import logging
import time
from secrets import token_hex

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.error_response import error_response
from gateway.errors import BodyTooLarge, GatewayError, UnexpectedError
from gateway.observability.metrics import Metrics

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""The status filed for a client that left before its answer began (nginx's number for it)."""

PROBED_ROUTES = ("/health/live", "/health/ready", "/metrics")
"""Asked every few seconds by supervisors and Prometheus; not worth a line each."""


class RequestScope:
    """Outermost: names the request, files its outcome, and answers for errors that nobody else handled."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = CLIENT_CLOSED_REQUEST

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass
        except Exception as error:
            log.exception("request failed", extra={"request_id": request_id})
            if status == CLIENT_CLOSED_REQUEST:
                await self._answer_for(error, scope, receive, send_with_id)
        finally:
            self._file(scope, request_id, status, time.perf_counter() - started)

    async def _answer_for(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        known = error if isinstance(error, GatewayError) else UnexpectedError()
        await error_response(known, scope)(scope, receive, send)

    def _file(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.http_requests.labels(route, _known_method(scope["method"]), status).inc()
        log.log(
            logging.DEBUG if route in PROBED_ROUTES else logging.INFO,
            "%s %s %d",
            scope["method"],
            route,
            status,
            extra={"request_id": request_id, "seconds": round(seconds, 3)},
        )


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
