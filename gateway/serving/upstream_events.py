"""Server-sent events of another server: whole ones only, and whether the answer was ended as its protocol wants. Pure.

Source: the HTML standard, "Server-sent events". Lines end with a line feed, perhaps after a carriage return, as all
servers write them.
"""

import re

from gateway.errors import UpstreamFailed

MOST_EVENT_BYTES = 8 * 1024 * 1024

LAST_EVENT = re.compile(
    rb"^(?:data: ?\[DONE\]|event: ?(?:message_stop|response\.(?:completed|incomplete|failed)))\r?$", re.MULTILINE
)
"""After which nothing more comes in OpenAI's chat and completions, Anthropic's messages and OpenAI's responses."""

ERROR_EVENT = re.compile(rb'^(?:event: ?error\r?$|data: ?\{"error": ?[{"])', re.MULTILINE)
"""By which a server ends an answer that failed, in any of these; `[DONE]` may follow."""

EVENT_END = re.compile(rb"\n\r?\n")

SAYS_SOMETHING = re.compile(rb"^(?!:|\r?$)", re.MULTILINE)
"""A line that is no comment and not empty."""


class EventSplitter:
    """Gives bytes on as soon as an event is whole, so that something can be said between two events at any time."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self.ended = False
        """The answer was ended as its protocol wants."""
        self.told_error = False
        """The client was told by the server that there is no more."""

    def feed(self, chunk: bytes) -> bytes:
        """The whole events by now, which may be none. Raises `UpstreamFailed` for one that is too long."""
        seen = max(0, len(self._rest) - 3)
        self._rest += chunk
        end = max(_end_of(self._rest, b"\n\n", seen), _end_of(self._rest, b"\n\r\n", seen))
        if end == 0 and len(self._rest) > MOST_EVENT_BYTES:
            raise UpstreamFailed(f"an event of the answer had more than {MOST_EVENT_BYTES} bytes", "garbage")
        return self._whole(end)

    def finish(self) -> bytes:
        """What came after the last whole event: a server may leave out the last empty line."""
        if not self._rest.endswith(b"\n"):
            return b""
        self._rest += b"\n"
        return self._whole(len(self._rest))

    def _whole(self, end: int) -> bytes:
        events = bytes(self._rest[:end])
        del self._rest[:end]
        self.told_error = self.told_error or ERROR_EVENT.search(events) is not None
        if last := LAST_EVENT.search(events):
            self.ended = True
            over = EVENT_END.search(events, last.end())
            return events[: over.end()] if over else events
        return events


def says_something(events: bytes) -> bool:
    """Whether there is more than comments, which keep a connection alive."""
    return SAYS_SOMETHING.search(events) is not None


def _end_of(text: bytearray, mark: bytes, begin: int) -> int:
    """Where the last `mark` ends, 0 if there is none."""
    found = text.rfind(mark, begin)
    return found + len(mark) if found >= 0 else 0
