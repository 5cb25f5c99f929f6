"""The table of all routes and what surrounds them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.admin_endpoints import AdminEndpoints
from gateway.api.cache_endpoints import CacheEndpoints
from gateway.api.completion_endpoints import CompletionEndpoints
from gateway.api.crash_endpoints import CrashEndpoints
from gateway.api.download_endpoints import DownloadEndpoints
from gateway.api.encoder_endpoints import EncoderEndpoints
from gateway.api.error_response import error_response, routing_error_response
from gateway.api.hardware_endpoints import HardwareEndpoints
from gateway.api.health_endpoints import HealthEndpoints
from gateway.api.import_endpoints import ImportEndpoints
from gateway.api.inference_endpoints import InferenceEndpoints
from gateway.api.job_endpoints import JobEndpoints
from gateway.api.key_endpoints import KeyEndpoints
from gateway.api.log_endpoints import LogEndpoints
from gateway.api.messages_endpoints import MessagesEndpoints
from gateway.api.middleware import BodyLimit, Ended, RequestScope
from gateway.api.model_access import only_allowed
from gateway.api.model_endpoints import ModelEndpoints
from gateway.api.neighbour_endpoints import NeighbourEndpoints
from gateway.api.ollama_endpoints import OllamaEndpoints
from gateway.api.optimise_endpoints import OptimiseEndpoints
from gateway.api.request_endpoints import RequestEndpoints
from gateway.api.responses_endpoints import ResponsesEndpoints
from gateway.api.security_guard import Gatekeeper, SecurityGuard
from gateway.api.token_endpoints import TokenEndpoints
from gateway.api.ui_endpoints import UiEndpoints
from gateway.api.upload_endpoints import UploadEndpoints
from gateway.api.upstream_endpoints import UpstreamEndpoints
from gateway.api.usage_endpoints import UsageEndpoints
from gateway.api.version_endpoints import VersionEndpoints
from gateway.errors import GatewayError
from gateway.model_pool.pool import ModelPool
from gateway.observability.metrics import Metrics
from gateway.observability.security_metrics import SecurityMetrics
from gateway.observability.tracing import Tracing
from gateway.security.audit import AuditLog

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
    upstreams: UpstreamEndpoints
    health: HealthEndpoints
    cache: CacheEndpoints
    admin: AdminEndpoints
    jobs: JobEndpoints
    optimise: OptimiseEndpoints
    downloads: DownloadEndpoints
    versions: VersionEndpoints
    imports: ImportEndpoints
    uploads: UploadEndpoints
    hardware: HardwareEndpoints
    keys: KeyEndpoints
    requests: RequestEndpoints
    ui: UiEndpoints
    logs: LogEndpoints
    usage: UsageEndpoints
    crashes: CrashEndpoints


def build_routes(of: Endpoints, pool: ModelPool) -> list[Route]:
    """The APIs' routes stand with and without /v1, because clients are configured either way."""
    or_passed_on = of.upstreams.or_passed_on
    apis: list[tuple[str, str, Endpoint]] = [
        ("POST", "/chat/completions", or_passed_on(of.inference.chat_completions)),
        ("POST", "/completions", or_passed_on(of.completions.completions)),
        ("POST", "/fim/completions", or_passed_on(of.completions.fill_in)),
        ("POST", "/responses", or_passed_on(of.responses.create)),
        ("POST", "/messages", or_passed_on(of.messages.messages)),
        ("POST", "/messages/count_tokens", or_passed_on(of.messages.count_tokens)),
        ("POST", "/embeddings", or_passed_on(of.encoders.embeddings)),
        ("POST", "/rerank", or_passed_on(of.encoders.rerank)),
        ("POST", "/tokenize", or_passed_on(of.tokens.tokenize)),
        ("POST", "/detokenize", or_passed_on(of.tokens.detokenize)),
        ("GET", "/models", of.models.list_models),
        ("GET", "/models/{model_id:path}", of.models.get_model),
        ("GET", "/model/info", of.neighbours.lite_llm_info),
    ]
    of_neighbours: list[tuple[str, str, Endpoint]] = [
        ("GET", "/api/v0/models", of.neighbours.lm_studio_models),
        ("GET", "/api/v0/models/{model_id:path}", of.neighbours.lm_studio_one_model),
        ("GET", "/api/v1/models", of.neighbours.lm_studio_keys),
        ("POST", "/api/v1/models/load", of.neighbours.lm_studio_load),
        ("POST", "/api/v1/models/unload", of.neighbours.lm_studio_unload),
        ("GET", "/running", of.neighbours.llama_swap_running),
        ("GET", "/unload", of.neighbours.llama_swap_unload),
        ("POST", "/api/models/unload", of.neighbours.llama_swap_unload),
        ("POST", "/api/models/unload/{model_id:path}", of.neighbours.llama_swap_unload),
        ("POST", "/v2/rerank", or_passed_on(of.encoders.rerank)),  # Cohere's
        *of.ollama.routes,
    ]
    own: list[tuple[str, str, Endpoint]] = [
        ("GET", "/", of.health.about),
        ("GET", "/health/live", of.health.live),
        ("GET", "/health/ready", of.health.ready),
        ("GET", "/metrics", of.health.metrics),
        ("GET", "/admin", of.ui.to_page),
        ("GET", "/admin/", of.ui.page),
        ("GET", "/admin/ui/{name:path}", of.ui.file),
        ("GET", "/admin/settings", of.ui.settings),
        ("GET", "/admin/requests", of.requests.list_all),
        ("POST", "/admin/requests/{request_id}/cancel", of.requests.cancel),
        ("GET", "/admin/models", of.admin.models),
        ("POST", "/admin/models/{model_id:path}/load", of.admin.load),
        ("POST", "/admin/models/{model_id:path}/evict", of.admin.evict),
        ("POST", "/admin/models/{model_id:path}/pin", of.admin.pin),
        ("POST", "/admin/models/{model_id:path}/unpin", of.admin.unpin),
        ("PATCH", "/admin/models/{model_id:path}", of.admin.change),
        ("GET", "/admin/models/{model_id:path}", of.admin.model),
        ("GET", "/admin/events", of.admin.events),
        ("GET", "/admin/logs", of.logs.logs),
        ("GET", "/admin/crashes", of.crashes.list_all),
        ("GET", "/admin/crashes/{name}", of.crashes.get),
        ("GET", "/admin/usage", of.usage.usage),
        ("GET", "/admin/upstreams", of.upstreams.describe),
        ("POST", "/admin/models/{model_id:path}/quantize", of.optimise.quantize),
        ("POST", "/admin/models/{model_id:path}/prune", of.optimise.prune),
        ("GET", "/admin/jobs", of.jobs.list_jobs),
        ("GET", "/admin/jobs/{job_id}", of.jobs.get_job),
        ("GET", "/admin/jobs/{job_id}/events", of.jobs.events),
        ("DELETE", "/admin/jobs/{job_id}", of.jobs.cancel_job),
        ("POST", "/admin/downloads", of.downloads.start),
        ("GET", "/admin/downloads", of.downloads.list_all),
        ("GET", "/admin/downloads/{download_id}", of.downloads.get),
        ("DELETE", "/admin/downloads/{download_id}", of.downloads.cancel),
        ("GET", "/admin/downloads/{download_id}/events", of.downloads.events),
        ("GET", "/admin/versions", of.versions.list_all),
        ("POST", "/admin/versions/outdated", of.versions.outdated),
        ("POST", "/admin/versions/gc", of.versions.collect_garbage),
        ("POST", "/admin/models/{model_id:path}/rollback", of.versions.roll_back),
        ("POST", "/admin/models/{model_id:path}/verify", of.versions.verify),
        ("POST", "/admin/imports", of.imports.start),
        ("GET", "/admin/imports", of.imports.list_all),
        ("GET", "/admin/imports/{job_id}", of.jobs.get_job),
        ("GET", "/admin/imports/{job_id}/events", of.jobs.events),
        ("DELETE", "/admin/imports/{job_id}", of.jobs.cancel_job),
        ("POST", "/admin/uploads", of.uploads.create),
        ("GET", "/admin/uploads", of.uploads.list_all),
        ("GET", "/admin/uploads/{upload_id}", of.uploads.get),
        ("PATCH", "/admin/uploads/{upload_id}", of.uploads.append),
        ("DELETE", "/admin/uploads/{upload_id}", of.uploads.remove),
        ("GET", "/admin/hardware", of.hardware.describe),
        ("POST", "/admin/keys", of.keys.create),
        ("GET", "/admin/keys", of.keys.list_all),
        ("DELETE", "/admin/keys/{key_id}", of.keys.revoke),
        ("GET", "/admin/audit", of.keys.audit),
        ("GET", "/admin/cache", of.cache.describe),
        ("DELETE", "/admin/cache", of.cache.clear),
        ("GET", "/admin/cache/explain/{request_id}", of.cache.explain),
    ]
    with_prefix = [(method, f"/v1{path}", endpoint) for method, path, endpoint in apis]
    of_models = [(method, path, only_allowed(to, pool)) for method, path, to in with_prefix + apis + of_neighbours]
    table = of_models + own
    return [Route(path, endpoint, methods=[method]) for method, path, endpoint in table]


@dataclass(frozen=True, slots=True)
class Gate:
    """What stands before all routes."""

    keeper: Gatekeeper
    audit: AuditLog
    metrics: SecurityMetrics
    allowed_origins: list[str]
    max_body_bytes: int


def build_asgi_app(
    routes: list[Route], metrics: Metrics, gate: Gate, ended: Sequence[Ended], tracing: Tracing | None
) -> Starlette:
    """The routes within the middleware, with every error in its protocol's shape; `ended` hear of requests' ends."""

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(RequestScope, metrics=metrics, ended=ended, tracing=tracing),
            *_cors(gate.allowed_origins),
            Middleware(SecurityGuard, gatekeeper=gate.keeper, audit=gate.audit, metrics=gate.metrics),
            Middleware(BodyLimit, limit_bytes=gate.max_body_bytes),
        ],
        exception_handlers={GatewayError: _gateway_error, HTTPException: _http_error},
    )
    app.router.redirect_slashes = False  # a POST that is redirected loses its body with some clients
    return app


def _cors(origins: list[str]) -> list[Middleware]:
    """What lets browsers show answers to pages of these origins; a browser asks for it without a key."""
    if not origins:
        return []
    return [Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])]


async def _gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    return error_response(error, request.scope)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return routing_error_response(error, request.scope)
