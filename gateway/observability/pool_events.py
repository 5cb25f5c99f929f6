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
        self._listeners: set[asyncio.Queue[PoolEvent]] = set()

    def tell(self, kind: str, model: str, state: str, doing: str, fraction: float) -> None:
        event = PoolEvent(kind, model, state, doing, round(fraction, 3), time.time())
        for listener in self._listeners:
            if listener.full():
                listener.get_nowait()
            listener.put_nowait(event)

    async def listen(self) -> AsyncIterator[PoolEvent]:
        """Everything from now on; close the iterator to stop listening."""
        unread: asyncio.Queue[PoolEvent] = asyncio.Queue(MOST_UNREAD)
        self._listeners.add(unread)
        try:
            while True:
                yield await unread.get()
        finally:
            self._listeners.discard(unread)
