"""Every Prometheus metric of the gateway, on one registry that `app.py` builds and passes in.

The subjects are files of their own. Label values come from the configuration or from fixed sets: a client cannot create
a series.
"""

import logging
import time
from collections.abc import Mapping
from importlib.metadata import version

import psutil  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from gateway.observability.cache_metrics import ModelReuseMetrics, PrefixMetrics, ReuseMetrics
from gateway.observability.engine_metrics import EngineMetrics, ModelEngineMetrics
from gateway.observability.engine_state import EngineState
from gateway.observability.pool_metrics import ModelPoolMetrics, PoolMetrics
from gateway.observability.process_metrics import EventLoopMetrics, ProcessMetrics
from gateway.observability.request_metrics import ModelRequestMetrics, RequestMetrics
from gateway.observability.upstream_metrics import UpstreamMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The classic text format: the newer one that Prometheus negotiates would rename `vllm:x` to `vllm_x`."""

log = logging.getLogger(__name__)


class Metrics:
    """The registry and what belongs to no single model."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        Gauge("mlx_gateway_build_info", "Version of the gateway", ["version"], registry=registry).labels(
            version("mlx-gateway")
        ).set(1)
        self.http_requests = Counter(
            "mlx_gateway_http_requests_total",
            "Answered HTTP requests",
            ["route", "method", "status"],
            registry=registry,
        )
        self.refused_requests = Counter(
            "mlx_gateway_refused_requests_total",
            "Generation requests that were refused before any token",
            ["reason"],
            registry=registry,
        )
        self.memory_bytes = Gauge(
            "mlx_gateway_memory_bytes",
            "The memory budget, who holds how much of it, and what is free",
            ["owner"],
            registry=registry,
        )
        self._first_served = Gauge(
            "mlx_gateway_start_to_first_token_seconds",
            "From the start of the process to the first token of its first answer; 0 before that",
            registry=registry,
        )
        self._has_served = False
        self.requests = RequestMetrics(registry)
        self.engines = EngineMetrics(registry)
        self.prefixes = PrefixMetrics(registry)
        self.reuse = ReuseMetrics(registry)
        self.pool = PoolMetrics(registry)
        self.upstreams = UpstreamMetrics(registry)
        self.event_loop = EventLoopMetrics(registry)
        ProcessMetrics(registry)

    def served(self) -> None:
        """A token goes out; the first one is noted."""
        if not self._has_served:
            self._has_served = True
            seconds = time.time() - psutil.Process().create_time()
            self._first_served.set(seconds)
            log.info("the first token went out %.2f s after the process started", seconds)

    def for_model(self, model_name: str) -> "ModelMetrics":
        return ModelMetrics(self, model_name)

    def render(self) -> bytes:
        return generate_latest(self.registry)


class ModelMetrics:
    """One model's series. `model_name` is a configured id."""

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        self.served = metrics.served
        self.requests = ModelRequestMetrics(metrics.requests, model_name)
        self.engine = ModelEngineMetrics(metrics.engines, model_name)
        self.pool = ModelPoolMetrics(metrics.pool, model_name)
        self._reuse = ModelReuseMetrics(metrics.reuse, model_name)
        self._memory_bytes = metrics.memory_bytes
        self._prefixes = metrics.prefixes
        self.decode_seconds = 0.0

    def step_done(self, state: EngineState) -> None:
        """What an engine says of itself after a step."""
        self.decode_seconds = state.decode_seconds
        self.engine.step_done(state)
        for owner, held in state.memory.items():
            self._memory_bytes.labels(owner).set(held)
        self._prefixes.used(state.prefixes)

    def prompt_began(self, tokens: int, reused: Mapping[str, int], cause: str) -> None:
        """See `ModelReuseMetrics`."""
        self._reuse.prompt_began(tokens, reused, cause)
