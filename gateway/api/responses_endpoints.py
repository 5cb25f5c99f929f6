"""OpenAI's responses."""

from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.event_stream import stream_events, unless_disconnected
from gateway.api.json_response import json_response
from gateway.api.request_origin import request_origin
from gateway.api.warning_header import plain_name, warning_headers
from gateway.config import ServerConfig
from gateway.protocols.openai_responses import (
    ignored,
    ignored_tools,
    offered,
    parse_responses_request,
    to_text_request,
)
from gateway.protocols.openai_responses_answer import ResponsesStream, whole_response
from gateway.serving.text import TextServing


class ResponsesEndpoints:
    def __init__(self, text: TextServing, config: ServerConfig) -> None:
        self._text = text
        self._config = config

    async def create(self, request: Request) -> Response:
        """POST /v1/responses"""
        body = await request.body()
        asked = parse_responses_request(body)
        tools = offered(asked)
        unused = ", ".join(plain_name(kind) for kind in ignored_tools(asked))
        warnings = warning_headers(ignored(body, asked), [f"ignored tools: {unused}"] if unused else [])
        events = self._text.generate(to_text_request(asked, tools, request_origin(request)))
        if asked.stream:
            return await stream_events(events, ResponsesStream(asked, tools), request, self._config, warnings)
        async with aclosing(events):
            answer = whole_response(events, asked, tools)
            return json_response(await unless_disconnected(request, answer), headers=warnings)
