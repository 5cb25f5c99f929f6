"""What the server is, is it alive, can it serve, and what did it do."""

from importlib.metadata import version

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.model_pool.pool import ModelPool
from gateway.observability.metrics import CONTENT_TYPE, Metrics


class About(Struct, frozen=True):
    name: str
    version: str
    openai_base_url: str
    anthropic_base_url: str


class ModelHealth(Struct, frozen=True):
    """`doing` says in words what is still happening or what went wrong; `fraction` of that step is done (0 to 1)."""

    id: str
    state: str
    doing: str
    fraction: float


class Readiness(Struct, frozen=True):
    ready: bool
    models: list[ModelHealth]


class HealthEndpoints:
    def __init__(self, pool: ModelPool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics
        self._about = About("mlx-gateway", version("mlx-gateway"), "/v1", "/")

    async def about(self, request: Request) -> Response:
        """GET /, and HEAD / as Claude Code asks before it begins."""
        return json_response(self._about)

    async def live(self, request: Request) -> Response:
        """GET /health/live: 200 for as long as the event loop runs."""
        return json_response({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """GET /health/ready: 200 once every model can serve, else 503 and what is still happening."""
        ready = self._pool.ready
        models = [ModelHealth(m.model_id, m.state.value, m.doing, round(m.fraction, 3)) for m in self._pool.models]
        return json_response(Readiness(ready, models), 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics in Prometheus's text format."""
        return Response(self._metrics.render(), headers={"content-type": CONTENT_TYPE})
