"""Models that come and go, by model; and downloads."""

from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.observability.series import GrowingTotal, ModelSeries

EVICTION_REASONS = ("operator", "memory", "idle")


class PoolMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        series = ModelSeries(registry)
        preloads = Counter(
            "mlx_gateway_preloads_total",
            "Models that were loaded before anybody asked, by whether somebody did soon",
            ["outcome"],
            registry=registry,
        )
        self._preload_hits = GrowingTotal(preloads.labels("wanted"))
        self._preload_misses = GrowingTotal(preloads.labels("not wanted"))
        self._preload_hit_rate = Gauge(
            "mlx_gateway_preload_hit_rate", "Share of preloaded models that were wanted soon", registry=registry
        )
        self.load_seconds = series.gauge("mlx_gateway_model_load_seconds", "How long the last load took")
        self.weight_bytes = series.gauge("mlx_gateway_model_weight_bytes", "Memory of the model's weights")
        self.loads = series.counter("mlx_gateway_model_loads_total", "Loads of weights, by outcome", "outcome")
        self.evictions = series.counter(
            "mlx_gateway_model_evictions_total", "Models that gave up their memory, and why", "reason"
        )
        self.progress = series.gauge("mlx_gateway_model_progress", "How far a model is with what it does (0 to 1)")
        self.leases = series.gauge("mlx_gateway_model_leases", "Requests that hold the model in memory")
        self.lease_waits = series.gauge(
            "mlx_gateway_model_requests_waiting", "Requests that wait until the model is in memory"
        )

    def preloads(self, hits: int, misses: int) -> None:
        """Since the process began."""
        self._preload_hits.reached(hits)
        self._preload_misses.reached(misses)
        self._preload_hit_rate.set(hits / max(1, hits + misses))


class ModelPoolMetrics:
    """One model's series."""

    def __init__(self, metrics: PoolMetrics, model_name: str) -> None:
        self.load_seconds = metrics.load_seconds.labels(model_name)
        self.weight_bytes = metrics.weight_bytes.labels(model_name)
        self.loads = metrics.loads.labels(model_name, "ready")
        self.loads_failed = metrics.loads.labels(model_name, "failed")
        self.progress = metrics.progress.labels(model_name)
        self.leases = metrics.leases.labels(model_name)
        self.lease_waits = metrics.lease_waits.labels(model_name)
        self._evictions = {reason: metrics.evictions.labels(model_name, reason) for reason in EVICTION_REASONS}

    def evicted(self, reason: str) -> None:
        self._evictions[reason].inc()


class DownloadMetrics:
    """Downloads as the operator sees them in the list: those under way, and the last that ended."""

    def __init__(self, registry: CollectorRegistry, states: Iterable[str], count: Callable[[str], int]) -> None:
        """`count` is called on the event loop with one of `states`, whenever somebody reads the metrics."""
        downloads = Gauge("mlx_gateway_downloads", "Listed downloads, by state", ["state"], registry=registry)
        for state in states:
            downloads.labels(state).set_function(partial(count, state))
