"""Server-sent events that tell how something goes on: each is the state at that time, as JSON."""

from collections.abc import AsyncIterator

import msgspec
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from gateway.config import ServerConfig


class StateStreamResponse(EventSourceResponse):
    """Ends with `states`, or with the client."""

    def __init__(self, states: AsyncIterator[object], config: ServerConfig) -> None:
        super().__init__(
            _frames(states), ping=config.keep_alive_seconds, send_timeout=config.send_timeout_seconds, sep="\n"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError as error:
            raise ClientDisconnect from error  # it holds the connection but takes nothing


async def _frames(states: AsyncIterator[object]) -> AsyncIterator[bytes]:
    async for state in states:
        yield b"data: " + msgspec.json.encode(state) + b"\n\n"
