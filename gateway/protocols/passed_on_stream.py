"""Streams of another server as this server's client gets them: keep-alives while nothing comes, errors at the end.

One class for each protocol that has its own way to say so.
"""

import re
from collections.abc import Iterator

from msgspec import json
from msgspec.json import encode

from gateway.errors import GatewayError, UpstreamRefused
from gateway.protocols import anthropic_errors, wire_errors
from gateway.protocols.passed_on import events_with_model

SEQUENCE_NUMBER = re.compile(rb'"sequence_number": ?(\d+)')


class PassedOnStream:
    """OpenAI's chat and completions."""

    def __init__(self, model: str) -> None:
        """`model` is what the client calls it."""
        self._model = model

    def frames(self, events: bytes) -> Iterator[bytes]:
        yield events_with_model(events, self._model)

    def error_frames(self, error: GatewayError) -> Iterator[bytes]:
        """Ends a stream that has begun; an error that the other server worded is told in its words."""
        yield b"data: " + (_wording(error) or encode(wire_errors.error_body(error))) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def keep_alive(self) -> bytes:
        return b": keep-alive\n\n"


class PassedOnMessages(PassedOnStream):
    """Anthropic's messages."""

    def error_frames(self, error: GatewayError) -> Iterator[bytes]:
        yield b"event: error\ndata: " + (_wording(error) or encode(anthropic_errors.error_body(error))) + b"\n\n"

    def keep_alive(self) -> bytes:
        return b'event: ping\ndata: {"type":"ping"}\n\n'


class PassedOnResponses(PassedOnStream):
    """OpenAI's responses, whose events are numbered."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._last_number = -1

    def frames(self, events: bytes) -> Iterator[bytes]:
        if numbers := SEQUENCE_NUMBER.findall(events):
            self._last_number = int(numbers[-1])
        yield from super().frames(events)

    def error_frames(self, error: GatewayError) -> Iterator[bytes]:
        event = {
            "type": "error",
            "code": wire_errors.wire_status(error).code,
            "message": str(error),
            "param": None,
            "sequence_number": self._last_number + 1,
        }
        yield b"event: error\ndata: " + encode(event) + b"\n\n"


def passed_on_stream(path: str, model: str) -> PassedOnStream:
    """By the path, without /v1."""
    kind = {"/messages": PassedOnMessages, "/responses": PassedOnResponses}.get(path, PassedOnStream)
    return kind(model)


def _wording(error: GatewayError) -> bytes | None:
    """In one line, as an event's data must be."""
    if not isinstance(error, UpstreamRefused) or error.body is None:
        return None
    return encode(json.decode(error.body))
