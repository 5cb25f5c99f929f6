"""OpenAI's responses, the way out: events to the stream's events or to one response.

Source: OpenAI API reference, "Responses", streaming events; the codes of failures are those that codex tells apart.
"""

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import msgspec

from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest, Overloaded
from gateway.generation.events import (
    Admitted,
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolArguments,
    ToolCallBegan,
)
from gateway.protocols.openai_responses import ResponsesRequest
from gateway.protocols.responses_object import Failure, IncompleteDetails, Response, begun, usage
from gateway.protocols.responses_output import (
    ItemStatus,
    OpenCustomCall,
    OpenFunctionCall,
    OpenMessage,
    OpenReasoning,
    OutputItem,
    WireEvent,
)
from gateway.protocols.responses_tools import OfferedTool
from gateway.protocols.wire_errors import error_body

encode = msgspec.json.Encoder().encode

COMMENT = b": keep-alive\n\n"

CODE_BY_ERROR: tuple[tuple[type[GatewayError], str], ...] = (
    (ContextLengthExceeded, "context_length_exceeded"),
    (InvalidRequest, "invalid_prompt"),
    (Overloaded, "rate_limit_exceeded"),
    (GatewayError, "server_error"),
)
"""Of a response that failed after its stream began. The first class that fits decides."""


class ResponsesStream:
    """One request's server-sent events, as bytes.

    A call that the token limit cut short is never done, nor part of the response: a client would carry it out.
    """

    def __init__(self, request: ResponsesRequest, tools: Sequence[OfferedTool]) -> None:
        self._answer = _Answer(request, tools)
        self._sent = 0  # events; the next has this number
        self._over = False

    def frames(self, event: Event) -> Iterator[bytes]:
        """The frames of one event; the first brings the beginning, `Finished` the end."""
        yield from self._begin()
        for wire_event in self._answer.add(event):
            yield self._frame(wire_event)
        if isinstance(event, Finished):
            response = self._answer.finished(event)
            self._over = True
            yield self._frame((f"response.{response.status}", {"response": response}))

    def error_frames(self, error: GatewayError) -> Iterator[bytes]:
        """Ends a stream that has begun."""
        yield from self._begin()
        self._over = True
        yield self._frame(("response.failed", {"response": self._answer.failed(error)}))

    def keep_alive(self) -> bytes:
        """An event: codex, for one, takes a stream of comments for a dead one."""
        if self._over:
            return COMMENT
        if self._sent == 0:
            return b"".join(self._begin())
        return self._frame(("response.in_progress", {"response": self._answer.begun}))

    def _begin(self) -> Iterator[bytes]:
        if self._sent == 0:
            yield self._frame(("response.created", {"response": self._answer.begun}))
            yield self._frame(("response.in_progress", {"response": self._answer.begun}))

    def _frame(self, event: WireEvent) -> bytes:
        name, fields = event
        body = encode({"type": name, "sequence_number": self._sent, **fields})
        self._sent += 1
        return b"event: " + name.encode() + b"\ndata: " + body + b"\n\n"


async def whole_response(
    events: AsyncIterator[Event], request: ResponsesRequest, tools: Sequence[OfferedTool]
) -> Response:
    """Collects all events into one response. Raises what ends the events."""
    answer = _Answer(request, tools)
    finished = Finished(0, 0)
    async for event in events:
        for _ in answer.add(event):
            pass
        if isinstance(event, Finished):
            finished = event
    return answer.finished(finished)


class _Answer:
    """The items of an answer, one open at a time, and the response around them."""

    def __init__(self, request: ResponsesRequest, tools: Sequence[OfferedTool]) -> None:
        self.begun = begun(request)
        self._request = request
        self._tools: Mapping[str, OfferedTool] = {one.tool.name: one for one in tools}
        self._open: OpenMessage | OpenReasoning | OpenFunctionCall | OpenCustomCall | None = None
        self._opened = 0
        self._done: list[OutputItem] = []
        self._reason: FinishReason = "stop"

    def add(self, event: Event) -> Iterator[WireEvent]:
        for wire_event in self._events_of(event):
            if wire_event[0] == "response.output_item.done":
                item = wire_event[1]["item"]
                assert isinstance(item, OutputItem)
                self._done.append(item)
            yield wire_event

    def finished(self, finished: Finished) -> Response:
        cut = self._reason == "length"
        return msgspec.structs.replace(
            self.begun,
            status="incomplete" if cut else "completed",
            completed_at=None if cut else int(time.time()),
            incomplete_details=IncompleteDetails() if cut else None,
            output=self._done,
            usage=usage(finished),
        )

    def failed(self, error: GatewayError) -> Response:
        told = error_body(error).error
        code = next(code for kind, code in CODE_BY_ERROR if isinstance(error, kind))
        failure = Failure(code, told.message, told.type, told.param)
        return msgspec.structs.replace(self.begun, status="failed", error=failure, output=self._done)

    def _events_of(self, event: Event) -> Iterator[WireEvent]:
        match event:
            case TextDelta(_, text, logprobs):
                if text and not isinstance(self._open, OpenMessage):
                    yield from self._begin(OpenMessage(self._opened))
                if isinstance(self._open, OpenMessage) and (text or logprobs):
                    yield from self._open.add(text, logprobs)
            case ReasoningDelta(_, text):
                if text and not isinstance(self._open, OpenReasoning):
                    yield from self._begin(self._new_reasoning())
                if text and isinstance(self._open, OpenReasoning):
                    yield from self._open.add(text)
            case ToolCallBegan(_, _, call_id, name):
                yield from self._begin(self._new_call(call_id, name))
            case ToolArguments(_, _, text):
                if text and isinstance(self._open, OpenFunctionCall | OpenCustomCall):
                    yield from self._open.add(text)
            case ChoiceFinished(_, reason):
                self._reason = reason
                if self._opened == 0:
                    yield from self._begin(OpenMessage(0))  # clients look for a message even if it is empty
                yield from self._end("incomplete" if reason == "length" else "completed")
            case Admitted() | Finished():
                pass

    def _begin(self, item: OpenMessage | OpenReasoning | OpenFunctionCall | OpenCustomCall) -> Iterator[WireEvent]:
        yield from self._end("completed")
        self._open = item
        self._opened += 1
        yield from item.begin()

    def _end(self, status: ItemStatus) -> Iterator[WireEvent]:
        match self._open:
            case OpenMessage() | OpenReasoning():
                yield from self._open.end(status)
            case OpenFunctionCall() | OpenCustomCall():
                if status == "completed":
                    yield from self._open.end()
        self._open = None

    def _new_reasoning(self) -> OpenReasoning:
        request = self._request
        return OpenReasoning(self._opened, with_summary=request.wants_summary, sealed=request.wants_sealed_reasoning)

    def _new_call(self, call_id: str, name: str) -> OpenFunctionCall | OpenCustomCall:
        """A model may call what was not offered; its client knows best what to say to that."""
        tool = self._tools.get(name)
        if tool is None:
            return OpenFunctionCall(self._opened, call_id, name, None)
        kind = OpenCustomCall if tool.freeform else OpenFunctionCall
        return kind(self._opened, call_id, tool.name, tool.namespace)
