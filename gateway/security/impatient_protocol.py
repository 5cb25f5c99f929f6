"""uvicorn's HTTP protocol, which waits only so long for what a client sends, and only for so much.

uvicorn has neither limit: a client that sends a header every minute would hold its connection for ever. Belongs to the
event loop, as uvicorn's connections do.
"""

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.config import SecurityConfig

log = logging.getLogger(__name__)

SLOWEST_BODY_BYTES_PER_SECOND = 4096


class ImpatientProtocol(HttpToolsProtocol):
    """Headers must be there within `header_seconds` and `max_header_bytes`; a body may be `body_seconds` later than one
    that comes at `SLOWEST_BODY_BYTES_PER_SECOND`.

    Subclasses have `limits`.
    """

    limits: SecurityConfig

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_headers = True
        self._in_body = False
        self._body_from = 0.0
        self._body_bytes = 0
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self.limits.header_seconds, "its request's headers")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._header_bytes += len(data)
            idle = self.cycle is None or self.cycle.response_complete
            if not self._patience and idle:  # also for line breaks that begin no request
                self._wait(self.limits.header_seconds, "its request's headers")
        super().data_received(data)
        if self._in_headers and self._header_bytes > self.limits.max_header_bytes and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        if not self._patience:  # the next request of a kept connection
            self._wait(self.limits.header_seconds, "its request's headers")

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._in_headers, self._header_bytes = False, 0
        self._stop_waiting()
        if size > self.limits.max_header_bytes:
            self._refuse()
            return
        self._in_body, self._body_from, self._body_bytes = True, self.loop.time(), 0
        self._wait(self.limits.body_seconds, "its request's body")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._in_headers, self._header_bytes = True, 0
        self._stop_waiting()
        if not self._refused:
            super().on_message_complete()

    def _refuse(self) -> None:
        self._refused = True
        text = b"The request's headers are over %d bytes.\n" % self.limits.max_header_bytes
        start = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\nconnection: close\r\n"
        self.transport.write(start + b"content-length: %d\r\n\r\n" % len(text) + text)
        self.transport.close()

    def _wait(self, seconds: float, for_what: str) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(seconds, self._give_up, for_what)

    def _stop_waiting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None

    def _give_up(self, for_what: str) -> None:
        self._patience = None
        if self._in_body:
            if self.flow.read_paused:  # this server reads slowly, not the client
                self._body_from = self.loop.time()
            allowed = self.limits.body_seconds + self._body_bytes / SLOWEST_BODY_BYTES_PER_SECOND
            if (left := self._body_from + allowed - self.loop.time()) > 0:
                self._wait(left, for_what)
                return
        log.warning("a client took too long to send %s and was disconnected", for_what)
        self.transport.close()
