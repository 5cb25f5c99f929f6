"""Endpoints that go on with a text, or fill a gap in it: what autocomplete in editors asks for."""

from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.event_stream import stream_events, unless_disconnected
from gateway.api.json_response import json_response
from gateway.api.request_origin import request_origin
from gateway.api.warning_header import warning_headers
from gateway.config import ServerConfig
from gateway.protocols.json_body import decode_body, ignored_fields
from gateway.protocols.openai_chat_answer import ChatStream, whole_answer
from gateway.protocols.openai_completions import (
    CompletionRequest,
    FillInRequest,
    to_fill_in_request,
    to_text_requests,
)
from gateway.protocols.openai_completions_answer import CompletionStream, whole_completion
from gateway.serving.several_prompts import generate_all
from gateway.serving.text import TextServing


class CompletionEndpoints:
    def __init__(self, text: TextServing, config: ServerConfig) -> None:
        self._text = text
        self._config = config

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions"""
        body = await request.body()
        completion = decode_body(body, CompletionRequest)
        warnings = warning_headers(ignored_fields(body, CompletionRequest))
        events = generate_all(self._text.generate, to_text_requests(completion, request_origin(request)))
        if completion.stream:
            include_usage = completion.stream_options is not None and completion.stream_options.include_usage
            stream = CompletionStream(completion.model, include_usage=include_usage)
            return await stream_events(events, stream, request, self._config, warnings)
        async with aclosing(events):
            answer = whole_completion(events, completion.model, with_logprobs=completion.logprobs is not None)
            return json_response(await unless_disconnected(request, answer), headers=warnings)

    async def fill_in(self, request: Request) -> Response:
        """POST /v1/fim/completions, Mistral's, which answers as chat completions do."""
        body = await request.body()
        fill_in = decode_body(body, FillInRequest)
        warnings = warning_headers(ignored_fields(body, FillInRequest))
        events = self._text.generate(to_fill_in_request(fill_in, request_origin(request)))
        if fill_in.stream:
            include_usage = fill_in.stream_options is not None and fill_in.stream_options.include_usage
            stream = ChatStream(fill_in.model, include_usage=include_usage)
            return await stream_events(events, stream, request, self._config, warnings)
        async with aclosing(events):
            answer = whole_answer(events, fill_in.model, with_logprobs=False)
            return json_response(await unless_disconnected(request, answer), headers=warnings)
