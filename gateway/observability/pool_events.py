"""What happens to models, told to whoever listens: state changes, progress of loads, evictions."""

import asyncio
import time
from collections.abc import AsyncIterator

from msgspec import Struct

MOST_UNREAD = 256
"""A listener that falls further behind loses the oldest."""


class PoolEvent(Struct, frozen=True):
    """`kind` is `state` or `progress`; `at` is in Unix seconds, `fraction` how far `doing` is."""

    kind: str
    model: str
    state: str
    doing: str
    fraction: float
    at: float


class PoolEvents:
    """Belongs to the event loop."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[PoolEvent | None]] = set()
        self._ended = False

    def tell(self, kind: str, model: str, state: str, doing: str, fraction: float) -> None:
        event = PoolEvent(kind, model, state, doing, round(fraction, 3), time.time())
        self._put(event)

    def end(self) -> None:
        """The server ends: who listens would hold it up."""
        self._ended = True
        self._put(None)

    async def listen(self) -> AsyncIterator[PoolEvent]:
        """Everything from now on until the end; close the iterator to stop listening."""
        unread: asyncio.Queue[PoolEvent | None] = asyncio.Queue(MOST_UNREAD)
        self._listeners.add(unread)
        try:
            while not self._ended and (event := await unread.get()) is not None:
                yield event
        finally:
            self._listeners.discard(unread)

    def _put(self, event: PoolEvent | None) -> None:
        for listener in self._listeners:
            if listener.full():
                listener.get_nowait()
            listener.put_nowait(event)
