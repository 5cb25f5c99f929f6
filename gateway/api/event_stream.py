"""Answers that take time: streams of server-sent events or JSON lines, and clients that leave.

A refusal that is known before the first event is an ordinary HTTP error. Once the stream has begun, errors
travel inside it.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from gateway.config import ServerConfig
from gateway.errors import GatewayError, UnexpectedError
from gateway.generation.events import Waiting
from gateway.observability.request_record import current_record

Result = TypeVar("Result")
Event = TypeVar("Event")
Written = TypeVar("Written", contravariant=True)

KEEP_ALIVE_DUE = b": due\n\n"
"""Stands for a keep-alive until it is sent."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Framing:
    """`first` is sent with the headers, so that every client sees bytes at once."""

    media_type: str
    first: bytes


SERVER_SENT_EVENTS = Framing("text/event-stream", b": keep-alive\n\n")
JSON_LINES = Framing("application/x-ndjson", b"")
"""These know no comments."""


@dataclass(slots=True)
class Wait:
    """What a request waits for before its answer begins, in words; empty once it has."""

    why: str = ""

    def told(self, keep_alive: bytes) -> bytes:
        """A keep-alive that is a comment says it."""
        if self.why and keep_alive.startswith(b":"):
            return f": {self.why}\n\n".encode()
        return keep_alive


class StreamProtocol(Protocol[Written]):
    """How one protocol writes events, as server-sent events or as lines of JSON."""

    def frames(self, event: Written) -> Iterator[bytes]: ...

    def error_frames(self, error: GatewayError) -> Iterator[bytes]: ...

    def keep_alive(self) -> bytes:
        """The frame that tells a waiting client that its request lives; may come before the first event."""


async def stream_events(
    events: AsyncGenerator[Event, None],
    protocol: StreamProtocol[Event],
    request: Request,
    config: ServerConfig,
    headers: Mapping[str, str] | None = None,
    framing: Framing = SERVER_SENT_EVENTS,
) -> EventSourceResponse:
    """The streaming response, once the first event is there or `first_event_seconds` have passed.

    Raises what the first event raises in that time, so that a refused request gets its HTTP status.
    """
    wait = Wait()
    first = asyncio.ensure_future(_first_of_answer(events, wait))
    try:
        await unless_disconnected(request, asyncio.wait([first], timeout=config.first_event_seconds))
        if first.done():
            first.result()
    except BaseException:
        await _close(first, events)
        raise
    return EventStreamResponse(first, events, protocol, config, headers, framing, wait)


class EventStreamResponse(EventSourceResponse):
    """The stream from its first event on; however it ends, even before it began, the request is closed."""

    def __init__(
        self,
        first: "asyncio.Future[Event]",
        events: AsyncGenerator[Event, None],
        protocol: StreamProtocol[Event],
        config: ServerConfig,
        headers: Mapping[str, str] | None,
        framing: Framing,
        wait: Wait,
    ) -> None:
        super().__init__(
            _frames(first, events, protocol, framing.first),
            headers=headers,
            media_type=framing.media_type,
            ping=config.keep_alive_seconds,
            ping_message_factory=lambda: KEEP_ALIVE_DUE,  # type: ignore[arg-type,return-value]  # sent as it is
            send_timeout=config.send_timeout_seconds,
            sep="\n",
        )
        self._first = first
        self._events = events
        self._protocol = protocol
        self._wait = wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_order(message: Message) -> None:
            """The library's keep-alives come from a task of their own, which may be overtaken on its way to here; so
            only here are they made, for protocols that number their frames."""
            if message.get("body") == KEEP_ALIVE_DUE:
                message = {**message, "body": self._wait.told(self._protocol.keep_alive())}
            await send(message)

        try:
            await super().__call__(scope, receive, send_in_order)
        except SendTimeoutError as error:
            raise ClientDisconnect from error  # it holds the connection but takes nothing
        finally:
            await _close(self._first, self._events)


async def _frames(
    first: "asyncio.Future[Event]",
    events: AsyncGenerator[Event, None],
    protocol: StreamProtocol[Event],
    greeting: bytes,
) -> AsyncIterator[bytes]:
    if greeting:
        yield greeting
    try:
        for frame in protocol.frames(await first):
            yield frame
        async for event in events:
            if not isinstance(event, Waiting):
                for frame in protocol.frames(event):
                    yield frame
    except GatewayError as error:
        current_record().error = type(error).__name__
        for frame in protocol.error_frames(error):
            yield frame
    except Exception:
        current_record().error = UnexpectedError.__name__
        log.exception("a stream failed")
        for frame in protocol.error_frames(UnexpectedError()):
            yield frame


async def _first_of_answer(events: AsyncGenerator[Event, None], wait: Wait) -> Event:
    while isinstance(event := await anext(events), Waiting):
        wait.why = event.why
    wait.why = ""
    return event


async def _close(first: "asyncio.Future[Event]", events: AsyncGenerator[Event, None]) -> None:
    if not first.done():
        first.cancel()
        await asyncio.wait([first])
    await events.aclose()


async def unless_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the client leaves; then raises `ClientDisconnect`."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait([working, leaving])


async def _disconnect(request: Request) -> None:
    """Returns when the client has closed the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
