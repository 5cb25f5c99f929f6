"""The text requests that have not ended: how far each is, and how an operator ends one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.engine.token_stream import TokenStream
from gateway.errors import RequestCancelled, RequestNotKnown
from gateway.generation.request import Priority, TextRequest
from gateway.observability.request_clock import RequestClock


class RunningRequest:
    """One of them. Its own task notes how far it is."""

    def __init__(self, request: TextRequest) -> None:
        self.request_id = request.origin.request_id
        self.model = request.model
        self.session = request.origin.session
        self.prompt_tokens = 0
        self.priority: Priority | None = request.origin.priority
        self._began = time.monotonic()
        self._loading = False
        self._cancelled = False
        self._stream: TokenStream | None = None
        self._clock: RequestClock | None = None

    @property
    def state(self) -> str:
        """`loading` while its model is; `waiting` for a place in the batch; then `prefill` and `decode`."""
        if self._stream is None:
            return "loading" if self._loading else "waiting"
        if self.generated_tokens:
            return "decode"
        return "prefill" if self._stream.reuse else "waiting"

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, which needed no computing."""
        return self._stream.reuse.tokens if self._stream and self._stream.reuse else 0

    @property
    def prefilled_tokens(self) -> int:
        """Of the prompt, known to be ready: what was cached until the first token comes, then all."""
        return self.prompt_tokens if self.generated_tokens else self.cached_tokens

    @property
    def generated_tokens(self) -> int:
        return self._clock.tokens if self._clock else 0

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.monotonic() - self._began

    def loading(self) -> None:
        """It waits for its model. Raises `RequestCancelled` if an operator ended it."""
        self._loading = True
        self.go_on()

    def go_on(self) -> None:
        """Raises `RequestCancelled` if an operator ended it."""
        if self._cancelled:
            raise RequestCancelled

    def submitted(self, stream: TokenStream, clock: RequestClock) -> None:
        self._stream, self._clock = stream, clock

    def cancel(self) -> None:
        """Ends it with `RequestCancelled`: at once in the engine's hands, before that at its next step forward."""
        self._cancelled = True
        if self._stream and not self._stream.complete:
            self._stream.cancel()
            self._stream.fail(RequestCancelled())


class RunningRequests:
    """Belongs to the event loop."""

    def __init__(self) -> None:
        self._running: dict[int, RunningRequest] = {}

    @property
    def all(self) -> list[RunningRequest]:
        """The oldest first."""
        return list(self._running.values())

    @contextmanager
    def follow(self, request: TextRequest) -> Iterator[RunningRequest]:
        """Known from now until the end of the block."""
        running = RunningRequest(request)
        self._running[id(running)] = running
        try:
            yield running
        finally:
            del self._running[id(running)]

    def cancel(self, request_id: str) -> None:
        """All that one HTTP request asked for. Raises `RequestNotKnown` when nothing of that name runs."""
        found = [running for running in self.all if running.request_id == request_id]
        if not found:
            raise RequestNotKnown(request_id)
        for running in found:
            running.cancel()
