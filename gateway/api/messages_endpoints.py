"""Anthropic's endpoints."""

from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.error_response import anthropic_headers
from gateway.api.event_stream import stream_events, unless_disconnected
from gateway.api.json_response import json_response
from gateway.api.request_origin import request_origin
from gateway.api.warning_header import warning_headers
from gateway.config import ServerConfig
from gateway.protocols.anthropic_messages import (
    MessagesRequest,
    PromptFields,
    parse_count_request,
    parse_messages_request,
    parts_without_effect,
    to_counted_request,
    to_text_request,
)
from gateway.protocols.anthropic_messages_answer import MessagesStream, TokenCount, whole_message
from gateway.protocols.json_body import ignored_fields
from gateway.serving.text import TextServing


class MessagesEndpoints:
    def __init__(self, text: TextServing, config: ServerConfig) -> None:
        self._text = text
        self._config = config

    async def messages(self, request: Request) -> Response:
        """POST /v1/messages"""
        body = await request.body()
        messages = parse_messages_request(body)
        headers = _headers(request, messages, ignored_fields(body, MessagesRequest))
        origin = request_origin(request, messages.session_hint)
        events = self._text.generate(to_text_request(messages, origin))
        if messages.stream:
            stream = MessagesStream(messages.model, origin.request_id or None)
            return await stream_events(events, stream, request, self._config, headers)
        async with aclosing(events):
            answer = whole_message(events, messages.model)
            return json_response(await unless_disconnected(request, answer), headers=headers)

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens"""
        body = await request.body()
        fields = parse_count_request(body)
        headers = _headers(request, fields, ignored_fields(body, MessagesRequest))
        counting = self._text.count_tokens(to_counted_request(fields, request_origin(request)))
        return json_response(TokenCount(await unless_disconnected(request, counting)), headers=headers)


def _headers(request: Request, fields: PromptFields, ignored: list[str]) -> dict[str, str]:
    return anthropic_headers(request.scope) | warning_headers(ignored + parts_without_effect(fields))
