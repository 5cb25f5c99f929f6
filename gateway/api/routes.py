"""The table of all routes and what surrounds them."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.cache_endpoints import CacheEndpoints
from gateway.api.health_endpoints import HealthEndpoints
from gateway.api.inference_endpoints import InferenceEndpoints
from gateway.api.json_response import error_response, json_response
from gateway.api.middleware import BodyLimit, RequestScope
from gateway.api.model_endpoints import ModelEndpoints
from gateway.errors import GatewayError
from gateway.observability.metrics import Metrics
from gateway.protocols.wire_errors import ErrorBody, ErrorObject

Endpoint = Callable[[Request], Awaitable[Response]]


def build_routes(
    inference: InferenceEndpoints, models: ModelEndpoints, health: HealthEndpoints, cache: CacheEndpoints
) -> list[Route]:
    """OpenAI's routes stand with and without /v1, because clients are configured either way."""
    openai: list[tuple[str, str, Endpoint]] = [
        ("POST", "/chat/completions", inference.chat_completions),
        ("GET", "/models", models.list_models),
        ("GET", "/models/{model_id:path}", models.get_model),
    ]
    own: list[tuple[str, str, Endpoint]] = [
        ("GET", "/health/live", health.live),
        ("GET", "/health/ready", health.ready),
        ("GET", "/metrics", health.metrics),
        ("GET", "/admin/cache", cache.describe),
        ("DELETE", "/admin/cache", cache.clear),
        ("GET", "/admin/cache/explain/{request_id}", cache.explain),
    ]
    with_prefix = [(method, f"/v1{path}", endpoint) for method, path, endpoint in openai]
    return [Route(path, endpoint, methods=[method]) for method, path, endpoint in with_prefix + openai + own]


def build_asgi_app(routes: list[Route], metrics: Metrics, max_body_bytes: int) -> Starlette:
    """The routes within the middleware, with every error in one shape."""

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
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Routing's own refusals: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}. The API's base URL ends in /v1."
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    body = ErrorBody(ErrorObject(message, "invalid_request_error", None, code))
    return json_response(body, error.status_code, dict(error.headers or {}))
