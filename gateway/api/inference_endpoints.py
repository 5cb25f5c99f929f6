"""Endpoints that generate."""

from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.event_stream import stream_events, unless_disconnected
from gateway.api.json_response import json_response
from gateway.api.request_origin import request_origin
from gateway.api.warning_header import warning_headers
from gateway.config import ServerConfig
from gateway.protocols.json_body import ignored_fields
from gateway.protocols.openai_chat import ChatRequest, parse_chat_request, to_text_request
from gateway.protocols.openai_chat_answer import ChatStream, whole_answer
from gateway.serving.text import TextServing


class InferenceEndpoints:
    def __init__(self, text: TextServing, config: ServerConfig) -> None:
        self._text = text
        self._config = config

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        body = await request.body()
        chat = parse_chat_request(body)
        warnings = warning_headers(ignored_fields(body, ChatRequest))
        events = self._text.generate(to_text_request(chat, request_origin(request)))
        if chat.stream:
            include_usage = chat.stream_options is not None and chat.stream_options.include_usage
            stream = ChatStream(chat.model, include_usage=include_usage)
            return await stream_events(events, stream, request, self._config, warnings)
        async with aclosing(events):
            answer = whole_answer(events, chat.model, with_logprobs=bool(chat.logprobs))
            return json_response(await unless_disconnected(request, answer), headers=warnings)
