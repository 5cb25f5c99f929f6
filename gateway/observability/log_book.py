"""All log lines of this server: the latest in memory, the older ones in files; searched, and followed as they come."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from threading import Lock

from gateway.observability.log_files import LogFiles
from gateway.observability.log_filter import LogFilter, line_time
from gateway.observability.log_line import json_line

LINES_IN_MEMORY = 5000
MOST_UNREAD = 2000
"""Who follows and falls further behind loses the oldest."""


class _Follower:
    """Fed by any thread, read on its event loop."""

    def __init__(self, wanted: LogFilter) -> None:
        self.unread: deque[bytes] = deque(maxlen=MOST_UNREAD)
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def offer(self, line: bytes) -> None:
        if self._wanted.matches(line):
            self.unread.append(line)
            self.wake()

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self._news.set)

    async def news(self) -> None:
        await self._news.wait()
        self._news.clear()


class LogBook(logging.Handler):
    """Any thread logs and searches; following belongs to the event loop."""

    def __init__(self, files: LogFiles | None = None) -> None:
        super().__init__()
        self._files = files
        self._latest: deque[bytes] = deque(maxlen=LINES_IN_MEMORY)
        self._followers: set[_Follower] = set()
        self._guard = Lock()
        self._ended = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = json_line(record)
        except Exception:  # noqa: BLE001  (a line that cannot be written must not end what logged it)
            self.handleError(record)
            return
        with self._guard:
            self._latest.append(line)
            followers = list(self._followers)
        if self._files:
            self._files.add(line)
        for follower in followers:
            follower.offer(line)

    def search(self, wanted: LogFilter, most: int) -> list[bytes]:
        """The latest `most` lines that match, in the order in which they were logged. Reads files: blocks."""
        found: list[bytes] = []
        for line in self._backwards(wanted.since):
            if wanted.matches(line):
                found.append(line)
                if len(found) >= most:
                    break
        return found[::-1]

    async def follow(self, wanted: LogFilter, most_before: int) -> AsyncIterator[bytes]:
        """Up to `most_before` of the latest lines, then each that is logged, until the server ends."""
        follower = _Follower(wanted)
        with self._guard:
            before = [line for line in self._latest if wanted.matches(line)]
            self._followers.add(follower)
        try:
            for line in before[len(before) - min(most_before, len(before)) :]:
                yield line
            while not self._ended:
                while follower.unread:
                    yield follower.unread.popleft()
                await follower.news()
        finally:
            with self._guard:
                self._followers.discard(follower)

    def end_following(self) -> None:
        """On the event loop, when the server ends: who follows would hold it up."""
        self._ended = True
        with self._guard:
            for follower in self._followers:
                follower.wake()

    def close(self) -> None:
        if self._files:
            self._files.stop()
        super().close()

    def _backwards(self, since: float) -> Iterator[bytes]:
        """The newest first; in the files come those that are no longer, or were never, in memory."""
        with self._guard:
            latest = list(self._latest)
        yield from reversed(latest)
        if self._files:
            oldest = line_time(latest[0]) if latest else float("inf")
            older = False
            for line in self._files.lines_backwards():
                # Lines stand in the order of their times: once one is older than all in memory, the rest are too.
                older = older or 0.0 < line_time(line) < oldest
                if since and 0.0 < line_time(line) < since:
                    return
                if older and line.endswith(b"}"):
                    yield line
