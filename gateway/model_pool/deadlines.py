"""Waits with a time limit that can all be ended at once. Belongs to the event loop."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from gateway.errors import ShuttingDown

Result = TypeVar("Result")


class Deadlines:
    """Every wait for another server is one of these, so that none outlasts this server."""

    def __init__(self) -> None:
        self._running: set[asyncio.Timeout] = set()
        self.ended = False

    async def within(self, seconds: float, work: Awaitable[Result]) -> Result:
        """The result of `work`. Raises `TimeoutError` after so long, `ShuttingDown` once all were ended."""
        try:
            async with asyncio.timeout(0 if self.ended else seconds) as limit:
                self._running.add(limit)
                try:
                    return await work
                finally:
                    self._running.discard(limit)
        except TimeoutError:
            if self.ended:
                raise ShuttingDown from None
            raise

    def end(self) -> None:
        self.ended = True
        now = asyncio.get_running_loop().time()
        for limit in self._running:
            limit.reschedule(now)
