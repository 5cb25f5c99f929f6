"""Builds every object once, wires them, and starts and stops them. There are no globals."""

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

from sse_starlette.sse import AppStatus

from gateway.api.admin_endpoints import AdminEndpoints
from gateway.api.cache_endpoints import CacheEndpoints
from gateway.api.completion_endpoints import CompletionEndpoints
from gateway.api.crash_endpoints import CrashEndpoints
from gateway.api.download_endpoints import DownloadEndpoints
from gateway.api.encoder_endpoints import EncoderEndpoints
from gateway.api.hardware_endpoints import HardwareEndpoints
from gateway.api.health_endpoints import HealthEndpoints
from gateway.api.import_endpoints import ImportEndpoints
from gateway.api.inference_endpoints import InferenceEndpoints
from gateway.api.job_endpoints import JobEndpoints
from gateway.api.key_endpoints import KeyEndpoints
from gateway.api.log_endpoints import LogEndpoints
from gateway.api.messages_endpoints import MessagesEndpoints
from gateway.api.model_endpoints import ModelEndpoints
from gateway.api.neighbour_endpoints import NeighbourEndpoints
from gateway.api.ollama_endpoints import OllamaEndpoints
from gateway.api.optimise_endpoints import OptimiseEndpoints
from gateway.api.request_endpoints import RequestEndpoints
from gateway.api.responses_endpoints import ResponsesEndpoints
from gateway.api.routes import Endpoints, Gate, build_asgi_app, build_routes
from gateway.api.security_guard import Gatekeeper
from gateway.api.token_endpoints import TokenEndpoints
from gateway.api.ui_endpoints import UiEndpoints
from gateway.api.upload_endpoints import UploadEndpoints
from gateway.api.upstream_endpoints import UpstreamEndpoints
from gateway.api.usage_endpoints import UsageEndpoints
from gateway.api.version_endpoints import VersionEndpoints
from gateway.config import Config
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.hardware.blas import Blas
from gateway.hardware.monitor import HardwareMonitor
from gateway.hardware.reactions import Reaction
from gateway.model_pool.downloads import Downloads, DownloadState
from gateway.model_pool.imports import Imports
from gateway.model_pool.jobs import Jobs
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.preparation import Workshop
from gateway.model_store.download_notes import DownloadNotes
from gateway.model_store.store import ModelStore
from gateway.model_store.store_folders import StoreFolders
from gateway.model_store.upload_folder import UploadFolder
from gateway.observability.crash_reports import CrashReports
from gateway.observability.hardware_metrics import HardwareMetrics
from gateway.observability.log_book import LogBook
from gateway.observability.metrics import Metrics
from gateway.observability.pool_events import PoolEvents
from gateway.observability.pool_metrics import DownloadMetrics
from gateway.observability.security_metrics import SecurityMetrics
from gateway.observability.tracing import Tracing
from gateway.observability.usage_database import UsageDatabase
from gateway.prefix_cache.prefix_caches import PrefixCaches
from gateway.security.api_keys import ApiKeys
from gateway.security.audit import AuditLog
from gateway.serving.encoding import EncoderServing
from gateway.serving.reuse_log import ReuseLog
from gateway.serving.running_requests import RunningRequests
from gateway.serving.text import TextServing
from gateway.serving.tokens import TokenServing

TOKENIZING_THREADS = 2

log = logging.getLogger(__name__)


def free_unused_memory() -> None:
    """On the MLX thread, which alone may import mlx, once it has nothing to do."""
    from gateway.hardware.memory import free_unused

    free_unused()


class App:
    """The whole server but its sockets. Build it on the event loop that will run it."""

    def __init__(self, config: Config, blas: Blas, logs: LogBook | None = None) -> None:
        self._logs = logs or LogBook()
        self._tracing = Tracing(config.otel) if config.otel.endpoint else None
        noted = config.usage
        self._usage = UsageDatabase(config.store_directory, noted.retention_days) if noted.enabled else None
        # The server drains running streams itself (`stop_generating`); the SSE library would cut them at once.
        AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
        metrics = Metrics()
        self._thread = MlxThread(free_unused_memory)
        self._config = config
        self._memory = memory = ProcessMemory(config.hardware)
        self._prefixes = PrefixCaches(config, self._thread.post)
        store = ModelStore(config.store_directory, config.downloads)
        workshop = Workshop(config, store, self._thread, memory, self._prefixes, blas)
        self._pool_events = PoolEvents()
        self._pool = ModelPool(config, workshop, metrics, self._pool_events)
        self._monitor = HardwareMonitor(
            config.hardware,
            HardwareMetrics(metrics.registry),
            {
                Reaction.TRIM_PREFIXES: self._trim_prefixes,
                Reaction.REFUSE_LONG: self._refuse_long,
                Reaction.EVICT_IDLE: self._evict_idle,
            },
        )
        self._jobs = Jobs()
        self._downloads = Downloads(store, DownloadNotes(config.store_directory), config.downloads.max_at_once)
        DownloadMetrics(metrics.registry, DownloadState, self._downloads.count)
        self._event_loop_metrics = metrics.event_loop
        trusted = [offered.source for offered in config.offered_models if offered.trusted]
        uploads = UploadFolder(config.store_directory)
        self._imports = Imports(store, uploads, self._jobs)
        reuse_log = ReuseLog()
        running = RunningRequests()
        # Of its own, so that long texts delay other texts only.
        self._tokenizing = ThreadPoolExecutor(TOKENIZING_THREADS, "tokenizing")
        self._text = TextServing(self._pool, metrics, config.engine, reuse_log, running, self._tokenizing)
        encoders = EncoderServing(self._pool, metrics, self._tokenizing)
        keys, audit = ApiKeys(config.store_directory), AuditLog(config.store_directory)
        endpoints = Endpoints(
            inference=InferenceEndpoints(self._text, config.server),
            completions=CompletionEndpoints(self._text, config.server),
            responses=ResponsesEndpoints(self._text, config.server),
            messages=MessagesEndpoints(self._text, config.server),
            encoders=EncoderEndpoints(encoders),
            tokens=TokenEndpoints(TokenServing(self._pool, self._tokenizing)),
            models=ModelEndpoints(self._pool),
            neighbours=NeighbourEndpoints(self._pool),
            ollama=OllamaEndpoints(self._text, encoders, self._pool, config.server),
            upstreams=UpstreamEndpoints(self._pool, config.server),
            health=HealthEndpoints(self._pool, metrics),
            cache=CacheEndpoints(self._thread, self._prefixes, reuse_log),
            admin=AdminEndpoints(self._pool, self._pool_events),
            jobs=JobEndpoints(self._jobs, config.server),
            imports=ImportEndpoints(self._imports, self._jobs),
            uploads=UploadEndpoints(uploads, self._imports),
            hardware=HardwareEndpoints(self._thread, self._monitor),
            optimise=OptimiseEndpoints(self._pool, store, self._jobs),
            downloads=DownloadEndpoints(self._downloads, trusted, config.server),
            requests=RequestEndpoints(running),
            ui=UiEndpoints(config.server),
            versions=VersionEndpoints(config, StoreFolders(config.store_directory), self._jobs),
            keys=KeyEndpoints(keys, audit),
            logs=LogEndpoints(self._logs),
            crashes=CrashEndpoints(CrashReports(config.log_directory, self._logs, config)),
            usage=UsageEndpoints(self._usage),
        )
        security_metrics = SecurityMetrics(metrics.registry)
        gate = Gate(
            Gatekeeper(config, keys, security_metrics),
            audit,
            security_metrics,
            config.security.allowed_origins,
            config.server.max_body_bytes,
        )
        self.asgi = build_asgi_app(
            build_routes(endpoints, self._pool), metrics, gate, [self._usage.add] if self._usage else [], self._tracing
        )

    async def _trim_prefixes(self, in_force: bool) -> None:
        def trim() -> None:
            if self._prefixes.squeeze(squeezed=in_force):
                free_unused_memory()

        self._thread.post(trim)

    async def _refuse_long(self, in_force: bool) -> None:
        self._memory.most_tokens = self._config.hardware.pressure_long_tokens if in_force else 0

    async def _evict_idle(self, in_force: bool) -> None:
        if in_force:
            await self._pool.residency.evict_unused()

    def reconfigure(self, config: Config) -> None:
        """Takes over what may change while the server runs (`config_changes.is_at_once`)."""
        self._pool.reconfigure(self._config, config)
        self._monitor.config = config.hardware
        self._config = config

    def refuse_requests(self) -> None:
        """From now on only the requests that are running go on."""
        self._pool.refuse_requests()
        self._imports.shut_down()
        self._jobs.shut_down()
        self._downloads.shut_down()
        self._logs.end_following()
        self._pool_events.end()

    def stop_generating(self) -> None:
        """Ends every running request with a clear error and refuses new ones."""
        self._pool.shut_down()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads the models meanwhile; at the end every request is over and the MLX thread has ended."""
        log.info("mlx-gateway %s", version("mlx-gateway"))
        self._thread.start()
        monitoring = asyncio.create_task(self._monitor.run())
        if self._usage:
            self._usage.start()
        watching = asyncio.create_task(self._event_loop_metrics.watch())
        try:
            self._pool.start()
            self._downloads.resume()
            await self._imports.begin()
            yield
        finally:
            monitoring.cancel()
            watching.cancel()
            self.stop_generating()
            self._text.close()
            self._tokenizing.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(self._thread.stop)
            await asyncio.to_thread(self._prefixes.stop)
            if self._tracing:
                await asyncio.to_thread(self._tracing.stop)
            if self._usage:
                await asyncio.to_thread(self._usage.stop)
