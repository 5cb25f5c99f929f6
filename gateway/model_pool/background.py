"""Blocking work that a shutdown must not wait for."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


async def in_background(function: Callable[[], Result], name: str) -> Result:
    """Runs `function` on a daemon thread of its own and returns its result.

    For downloads and imports, which may take hours and can be cut off at any point: unlike the event loop's
    executor, a daemon thread does not hold up the end of the process.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(set_outcome: Callable[..., None], outcome: object) -> None:
        if not done.done():
            set_outcome(outcome)

    def work() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  (handed to the caller)
            outcome: tuple[Callable[..., None], object] = (done.set_exception, error)
        else:
            outcome = (done.set_result, result)
        with suppress(RuntimeError):  # the loop has closed meanwhile
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await done
