"""Requests for models that run on other servers are passed on, and what those servers are."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from hashlib import blake2b

from msgspec import Raw, Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.error_response import anthropic_headers, error_response
from gateway.api.event_stream import stream_events, unless_disconnected
from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.api.request_origin import SESSION_HEADERS, request_origin
from gateway.config import ServerConfig
from gateway.errors import UpstreamRefused
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.upstream import UpstreamState
from gateway.model_pool.upstream_model import UpstreamModel
from gateway.observability.request_record import current_record
from gateway.protocols.passed_on import body_fields, field_value, session_hint, with_model
from gateway.protocols.passed_on_stream import passed_on_stream
from gateway.protocols.passed_on_usage import PassedOnUsage
from gateway.serving.upstream import Call, Forwarding

Endpoint = Callable[[Request], Awaitable[Response]]

NOT_PASSED_ON = re.compile(
    "accept-encoding|api-key|authorization|connection|content-(length|type|encoding)|cookie|expect|forwarded|host"
    "|keep-alive|origin|proxy-.*|referer|sec-.*|te|trailer|transfer-encoding|upgrade|via|x-api-key|x-forwarded-.*"
    "|x-goog-api-key|x-real-ip|x-request-id"
)
"""Headers of one connection (RFC 9110, section 7.6.1), of the client's browser, and what it proves itself with to this
server."""


class UpstreamsOfModel(Struct, frozen=True):
    model: str
    state: str
    servers: list[UpstreamState]


class Upstreams(Struct, frozen=True):
    models: list[UpstreamsOfModel]


class UpstreamEndpoints:
    def __init__(self, pool: ModelPool, config: ServerConfig) -> None:
        self._pool = pool
        self._config = config

    async def describe(self, request: Request) -> Response:
        """GET /admin/upstreams: every server elsewhere and how it stands."""
        operator_only(request)
        models = self._pool.upstream_models
        return json_response(Upstreams([UpstreamsOfModel(m.model_id, m.state.value, m.upstreams) for m in models]))

    def or_passed_on(self, endpoint: Endpoint) -> Endpoint:
        """What passes a request on if its model runs elsewhere, and else asks `endpoint`."""
        if not self._pool.upstream_models:
            return endpoint

        async def here_or_passed_on(request: Request) -> Response:
            fields = body_fields(await request.body())
            model_id = field_value(fields, "model", str)
            model = self._pool.upstream_model(model_id) if model_id else None
            if not model_id or not model:
                return await endpoint(request)
            return await self._pass_on(request, model, model_id, fields)

        return here_or_passed_on

    async def _pass_on(self, request: Request, model: UpstreamModel, model_id: str, fields: dict[str, Raw]) -> Response:
        current_record().asks(model_id)
        path = request.url.path.removeprefix("/v1")
        session = request_origin(request, session_hint(fields)).session
        stream = field_value(fields, "stream", bool) is True
        forwarding = Forwarding(model, Call(path, fields, _headers(request, session), session, stream))
        if path.startswith("/messages"):
            forwarding.headers.update(anthropic_headers(request.scope))
        try:
            if stream:
                wire = passed_on_stream(path, model_id)
                return await stream_events(
                    _counted(forwarding.parts()), wire, request, self._config, forwarding.headers
                )
            async with aclosing(_counted(forwarding.parts())) as parts:
                body = with_model(await unless_disconnected(request, anext(parts)), model_id)
                return Response(body, headers=forwarding.headers, media_type="application/json")
        except UpstreamRefused as refused:
            return _refusal(refused, request)


async def _counted(parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The parts, and in the request's record what they say of tokens."""
    record, usage = current_record(), PassedOnUsage()
    try:
        async with aclosing(parts):
            async for part in parts:
                record.token_came()
                usage.feed(part)
                yield part
    finally:
        record.used(usage.prompt_tokens, usage.generated_tokens, usage.cached_tokens)
        record.finish_reason = usage.finish_reason


def _headers(request: Request, session: str) -> list[tuple[str, str]]:
    """The client's, and by which another gateway knows the request and its session."""
    trace = current_record().trace
    passed = [(name, value) for name, value in request.headers.items() if not NOT_PASSED_ON.fullmatch(name)]
    passed = [(name, value) for name, value in passed if name not in trace] + list(trace.items())
    passed += [("content-type", "application/json"), ("x-request-id", request.state.request_id)]
    if not any(name in SESSION_HEADERS for name, _ in passed):
        passed.append(("x-session-id", blake2b(session.encode(errors="replace"), digest_size=16).hexdigest()))
    return passed


def _refusal(refused: UpstreamRefused, request: Request) -> Response:
    """As the other server worded it, if that can be passed on."""
    response = error_response(refused, request.scope)
    response.status_code = refused.status
    if refused.body is not None:
        response = Response(refused.body, refused.status, media_type="application/json")
    response.headers.update(refused.headers)
    return response
