"""A request's hold on a model: asked for, granted once the weights are in memory, given back at the end."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from gateway.errors import GatewayError

FIRST_NEWS_SECONDS = 0.1
NEWS_SECONDS = 1.0
"""How often whoever waits may hear something new."""


class Lease:
    """While it is granted the model stays in memory. An async context manager: it is given back however the block ends.

    Belongs to the event loop. `situation` says in words what the request waits for.
    """

    def __init__(self, situation: Callable[["Lease"], str], given_back: Callable[["Lease"], None]) -> None:
        self.asked_at = time.monotonic()
        self._situation = situation
        self._given_back = given_back
        self._outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over = False

    @property
    def is_granted(self) -> bool:
        return self._outcome.done() and not self._outcome.cancelled() and self._outcome.exception() is None

    def grant(self) -> None:
        self._outcome.set_result(None)

    def refuse(self, error: GatewayError) -> None:
        """Whoever waits is told why the model cannot serve."""
        if not self._outcome.done():
            self._outcome.set_exception(error)

    async def granted(self) -> None:
        """Waits for it. Raises why the model cannot serve."""
        await asyncio.wait([self._outcome])
        self._raise_refusal()

    async def news(self) -> AsyncIterator[str]:
        """What it waits for, each time that changes, until it is granted. Raises as `granted`."""
        last = ""
        while not self._outcome.done():
            await asyncio.wait([self._outcome], timeout=NEWS_SECONDS if last else FIRST_NEWS_SECONDS)
            if not self._outcome.done() and (now := self._situation(self)) != last:
                yield (last := now)
        self._raise_refusal()

    def give_back(self) -> None:
        if not self._over:
            self._over = True
            self._given_back(self)

    async def __aenter__(self) -> "Lease":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()

    def _raise_refusal(self) -> None:
        if error := self._outcome.exception():
            raise error.with_traceback(None)  # shared by many requests: keep none of their frames
