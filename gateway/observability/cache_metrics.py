"""What is kept of prompts and answers, and what it saved."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.observability.engine_state import PrefixUse
from gateway.observability.series import GrowingTotal, ModelSeries


class PrefixMetrics:
    """What is kept of all models' prompts and answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"mlx_gateway_prefix_cache_{name}", text, ["tier"], registry=registry)

        def counter(name: str, text: str, label: str = "tier") -> Counter:
            return Counter(f"mlx_gateway_prefix_cache_{name}_total", text, [label], registry=registry)

        held = gauge("bytes", "What is kept of prompts and answers")
        limit = gauge("limit_bytes", "The most that may be kept")
        evicted = counter("evicted", "Blobs that made room for others")
        written = counter("written", "Blobs that were written")
        dropped = counter("dropped", "Blobs that were not written: too much waited, or the disk had no room")
        seconds = counter("seconds", "Time spent with the disk", "does")
        self._removed = counter("removed_files", "Files that were of no use, by what was wrong with them", "reason")
        self._removed_totals: dict[str, GrowingTotal] = {}
        self._values = {
            "ram_bytes": held.labels("ram"),
            "disk_bytes": held.labels("disk"),
            "ram_limit_bytes": limit.labels("ram"),
            "disk_limit_bytes": limit.labels("disk"),
        }
        self._totals = {
            "ram_evicted": GrowingTotal(evicted.labels("ram")),
            "disk_evicted": GrowingTotal(evicted.labels("disk")),
            "disk_written": GrowingTotal(written.labels("disk")),
            "disk_dropped": GrowingTotal(dropped.labels("disk")),
            "disk_read_seconds": GrowingTotal(seconds.labels("reading")),
            "disk_write_seconds": GrowingTotal(seconds.labels("writing")),
        }

    def used(self, use: PrefixUse) -> None:
        for name, gauge in self._values.items():
            gauge.set(getattr(use, name))
        for name, total in self._totals.items():
            total.reached(getattr(use, name))
        for reason, count in use.removed_files.items():
            if reason not in self._removed_totals:
                self._removed_totals[reason] = GrowingTotal(self._removed.labels(reason))
            self._removed_totals[reason].reached(count)


class ReuseMetrics:
    """Where prompts' tokens came from, by model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        series = ModelSeries(registry)
        self.queries = series.counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up")
        self.hits = series.counter("vllm:prefix_cache_hits_total", "Prompt tokens that were not computed again")
        self.sources = series.counter(
            "mlx_gateway_prompt_tokens_by_source_total",
            "Prompt tokens by where they came from: kept in memory, on disk, from another request, or computed",
            "source",
        )
        self.missed = series.counter(
            "mlx_gateway_prefix_cache_missed_tokens_total",
            "Prompt tokens that were computed, by the likely cause",
            "cause",
        )


class ModelReuseMetrics:
    """One model's series."""

    def __init__(self, metrics: ReuseMetrics, model_name: str) -> None:
        self._model_name = model_name
        self._metrics = metrics
        self._queries = metrics.queries.labels(model_name)
        self._hits = metrics.hits.labels(model_name)

    def prompt_began(self, tokens: int, reused: Mapping[str, int], cause: str) -> None:
        """How many of a prompt's tokens came from where, and why the others must be computed.

        Sources and causes must come from fixed sets.
        """
        computed = tokens - sum(reused.values())
        self._queries.inc(tokens)
        self._hits.inc(tokens - computed)
        for source, count in {**reused, "computed": computed}.items():
            self._metrics.sources.labels(self._model_name, source).inc(count)
        self._metrics.missed.labels(self._model_name, cause).inc(computed)
