"""The table of all routes and what surrounds them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.cache_endpoints import CacheEndpoints
from gateway.api.completion_endpoints import CompletionEndpoints
from gateway.api.encoder_endpoints import EncoderEndpoints
from gateway.api.error_response import error_response, routing_error_response
from gateway.api.health_endpoints import HealthEndpoints
from gateway.api.inference_endpoints import InferenceEndpoints
from gateway.api.messages_endpoints import MessagesEndpoints
from gateway.api.middleware import BodyLimit, RequestScope
from gateway.api.model_endpoints import ModelEndpoints
from gateway.api.neighbour_endpoints import NeighbourEndpoints
from gateway.api.ollama_endpoints import OllamaEndpoints
from gateway.api.responses_endpoints import ResponsesEndpoints
from gateway.api.token_endpoints import TokenEndpoints
from gateway.errors import GatewayError
from gateway.observability.metrics import Metrics

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All there are, by what they are about."""

    inference: InferenceEndpoints
    completions: CompletionEndpoints
    responses: ResponsesEndpoints
    messages: MessagesEndpoints
    encoders: EncoderEndpoints
    tokens: TokenEndpoints
    models: ModelEndpoints
    neighbours: NeighbourEndpoints
    ollama: OllamaEndpoints
    health: HealthEndpoints
    cache: CacheEndpoints


def build_routes(of: Endpoints) -> list[Route]:
    """The APIs' routes stand with and without /v1, because clients are configured either way."""
    apis: list[tuple[str, str, Endpoint]] = [
        ("POST", "/chat/completions", of.inference.chat_completions),
        ("POST", "/completions", of.completions.completions),
        ("POST", "/fim/completions", of.completions.fill_in),
        ("POST", "/responses", of.responses.create),
        ("POST", "/messages", of.messages.messages),
        ("POST", "/messages/count_tokens", of.messages.count_tokens),
        ("POST", "/embeddings", of.encoders.embeddings),
        ("POST", "/rerank", of.encoders.rerank),
        ("POST", "/tokenize", of.tokens.tokenize),
        ("POST", "/detokenize", of.tokens.detokenize),
        ("GET", "/models", of.models.list_models),
        ("GET", "/models/{model_id:path}", of.models.get_model),
        ("GET", "/model/info", of.neighbours.lite_llm_info),
    ]
    of_neighbours: list[tuple[str, str, Endpoint]] = [
        ("GET", "/api/v0/models", of.neighbours.lm_studio_models),
        ("GET", "/api/v0/models/{model_id:path}", of.neighbours.lm_studio_one_model),
        ("GET", "/api/v1/models", of.neighbours.lm_studio_keys),
        ("POST", "/v2/rerank", of.encoders.rerank),  # Cohere's
        *of.ollama.routes,
    ]
    own: list[tuple[str, str, Endpoint]] = [
        ("GET", "/", of.health.about),
        ("GET", "/health/live", of.health.live),
        ("GET", "/health/ready", of.health.ready),
        ("GET", "/metrics", of.health.metrics),
        ("POST", "/admin/models/{model_id:path}/evict", of.models.evict),
        ("POST", "/admin/models/{model_id:path}/load", of.models.load),
        ("GET", "/admin/cache", of.cache.describe),
        ("DELETE", "/admin/cache", of.cache.clear),
        ("GET", "/admin/cache/explain/{request_id}", of.cache.explain),
    ]
    with_prefix = [(method, f"/v1{path}", endpoint) for method, path, endpoint in apis]
    table = with_prefix + apis + of_neighbours + own
    return [Route(path, endpoint, methods=[method]) for method, path, endpoint in table]


def build_asgi_app(routes: list[Route], metrics: Metrics, max_body_bytes: int) -> Starlette:
    """The routes within the middleware, with every error in its protocol's shape."""

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(RequestScope, metrics=metrics),
            Middleware(BodyLimit, limit_bytes=max_body_bytes),
        ],
        exception_handlers={GatewayError: _gateway_error, HTTPException: _http_error},
    )
    app.router.redirect_slashes = False  # a POST that is redirected loses its body with some clients
    return app


async def _gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    return error_response(error, request.scope)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return routing_error_response(error, request.scope)
