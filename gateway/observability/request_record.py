"""What became of one HTTP request: filled in where things happen, closed once by the outermost middleware.

Log line, metrics, usage and traces of a request's end are all made from its `EndedRequest`.
"""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

Outcome = Literal["finished", "refused", "cancelled", "failed"]

UNAVAILABLE = 503
LONGEST_NAME = 200


class EndedRequest(Struct, frozen=True):
    """`served` says that a model was asked to generate, embed or rank. Times are in seconds, None if never reached."""

    id: str
    method: str
    endpoint: str
    status: int
    outcome: Outcome
    error: str
    served: bool
    model: str
    session: str
    client: str
    key_id: str
    key: str
    started_at: float
    seconds: float
    queue_seconds: float | None
    first_token_seconds: float | None
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    finish_reason: str


@dataclass(slots=True)
class RequestRecord:
    """Belongs to the event loop. Several prompts of one request add up."""

    id: str = ""
    client: str = ""
    model: str = ""
    session: str = ""
    served: bool = False
    error: str = ""
    complete: bool = False  # the client was sent all of its answer
    ended: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finish_reason: str = ""
    queue_seconds: float | None = None
    trace: dict[str, str] = field(default_factory=dict)  # headers for servers that work for it
    started_at: float = field(default_factory=time.time)
    _started: float = field(default_factory=time.perf_counter)
    _first_token: float | None = None

    def asks(self, model: str) -> None:
        """A model is to serve it."""
        self.model = model[:LONGEST_NAME]
        self.served = True

    def token_came(self) -> None:
        if self._first_token is None:
            self._first_token = time.perf_counter()

    def began(self, when: float | None) -> None:
        """The computation of its prompt, by `time.perf_counter()`."""
        if when is not None and self.queue_seconds is None:
            self.queue_seconds = max(0.0, when - self._started)

    def used(self, prompt_tokens: int, generated_tokens: int = 0, cached_tokens: int = 0) -> None:
        self.prompt_tokens += prompt_tokens
        self.generated_tokens += generated_tokens
        self.cached_tokens += cached_tokens

    def end(self, method: str, endpoint: str, status: int, key_id: str, key: str) -> EndedRequest:
        self.ended = True
        first = self._first_token
        return EndedRequest(
            id=self.id,
            method=method,
            endpoint=endpoint,
            status=status,
            outcome=self._outcome(status),
            error=self.error,
            served=self.served,
            model=self.model,
            session=self.session,
            client=self.client,
            key_id=key_id,
            key=key,
            started_at=self.started_at,
            seconds=time.perf_counter() - self._started,
            queue_seconds=self.queue_seconds,
            first_token_seconds=None if first is None else first - self._started,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=self.generated_tokens,
            finish_reason=self.finish_reason,
        )

    def _outcome(self, status: int) -> Outcome:
        if not self.complete:
            return "cancelled"
        if status >= 400:
            return "refused" if status < 500 or status == UNAVAILABLE else "failed"
        return "failed" if self.error else "finished"


CURRENT: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)
"""Set by the outermost middleware; tasks that a request begins see the same record."""


def current_record() -> RequestRecord:
    """The record of the request that is being served here; outside of any, one that nobody reads."""
    return CURRENT.get() or RequestRecord()
