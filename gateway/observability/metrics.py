"""Every Prometheus metric of the gateway, on one registry that `app.py` builds and passes in.

`vllm:*` names are those of vLLM's server (docs, "Production metrics"), which existing dashboards query. Label
values come from the configuration or from fixed sets: a client cannot create a series.
"""

import logging
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import get_args

import psutil  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.generation.events import FinishReason
from gateway.generation.request import Priority
from gateway.observability.engine_state import EngineState, PrefixUse
from gateway.observability.upstream_metrics import UpstreamMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The classic text format: the newer one that Prometheus negotiates would rename `vllm:x` to `vllm_x`."""

FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
TOKEN_GAP_BUCKETS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
REQUEST_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 600.0)

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
        self._running = self._gauge("vllm:num_requests_running", "Rows (choices) in the batch")
        self._waiting = self._gauge("vllm:num_requests_waiting", "Rows (choices) waiting for a place in the batch")
        self._prompt_tokens = self._counter("vllm:prompt_tokens_total", "Prompt tokens of admitted requests")
        self._generation_tokens = self._counter("vllm:generation_tokens_total", "Generated tokens")
        self._first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "From the request to its first token", FIRST_TOKEN_BUCKETS
        )
        self._token_gap = self._histogram(
            "vllm:inter_token_latency_seconds", "Between two deliveries of one request", TOKEN_GAP_BUCKETS
        )
        self._duration = self._histogram(
            "vllm:e2e_request_latency_seconds", "From the request to its end", REQUEST_BUCKETS
        )
        self._ended = Counter(
            "vllm:request_success_total",
            "Ended choices by reason",
            ["model_name", "finished_reason"],
            registry=registry,
        )
        self._unfinished = Counter(
            "mlx_gateway_unfinished_requests_total",
            "Admitted requests that did not finish: the client left, or an error ended them",
            ["model_name", "reason"],
            registry=registry,
        )
        self._waiting_by_class = Gauge(
            "mlx_gateway_requests_waiting",
            "Rows (choices) waiting for a place in the batch, by class",
            ["model_name", "priority"],
            registry=registry,
        )
        self._restarts = self._counter("mlx_gateway_engine_restarts_total", "Engines built again after a breakdown")
        self._preemptions = self._counter(
            "vllm:num_preemptions_total", "Requests put back into the queue because memory ran short"
        )
        self._drafted = self._counter("vllm:spec_decode_num_draft_tokens_total", "Tokens proposed by prompt lookup")
        self._accepted = self._counter("vllm:spec_decode_num_accepted_tokens_total", "Proposed tokens that held")
        self._decode_step = self._gauge("mlx_gateway_decode_step_seconds", "A decode step of the present batch")
        self._chunk_tokens = self._gauge("mlx_gateway_prefill_chunk_tokens", "Tokens per prompt of the last chunk")
        self._pass_fixed = self._gauge("mlx_gateway_pass_fixed_seconds", "Learned cost of a forward pass by itself")
        self._pass_per_token = self._gauge(
            "mlx_gateway_pass_token_seconds", "Learned cost of each token of a forward pass"
        )
        self._pass_per_attended = self._gauge(
            "mlx_gateway_pass_attended_token_seconds", "Learned cost of each pair of a token and one it attends to"
        )
        self.memory_bytes = Gauge(
            "mlx_gateway_memory_bytes",
            "The memory budget, who holds how much of it, and what is free",
            ["owner"],
            registry=registry,
        )
        self._prefix_queries = self._counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up")
        self._prefix_hits = self._counter("vllm:prefix_cache_hits_total", "Prompt tokens that were not computed again")
        self._prompt_sources = Counter(
            "mlx_gateway_prompt_tokens_by_source_total",
            "Prompt tokens by where they came from: kept in memory, on disk, from another request, or computed",
            ["model_name", "source"],
            registry=registry,
        )
        self._prefix_missed = Counter(
            "mlx_gateway_prefix_cache_missed_tokens_total",
            "Prompt tokens that were computed, by the likely cause",
            ["model_name", "cause"],
            registry=registry,
        )
        self.prefixes = PrefixMetrics(registry)
        self.upstreams = UpstreamMetrics(registry)
        self._encoder_requests = self._counter(
            "mlx_gateway_encoder_requests_total", "Requests for embeddings or a ranking that were computed"
        )
        self._encoder_running = self._gauge(
            "mlx_gateway_encoder_requests_running", "Requests for embeddings or a ranking that are being computed"
        )
        self._encoder_tokens = self._counter("mlx_gateway_encoder_tokens_total", "Tokens of these requests' texts")
        self._first_served = Gauge(
            "mlx_gateway_start_to_first_token_seconds",
            "From the start of the process to the first token of its first answer; 0 before that",
            registry=registry,
        )
        self._has_served = False
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
        self._load_seconds = self._gauge("mlx_gateway_model_load_seconds", "How long the last load took")
        self._weight_bytes = self._gauge("mlx_gateway_model_weight_bytes", "Memory of the model's weights")
        self._loads = Counter(
            "mlx_gateway_model_loads_total",
            "Loads of weights, by outcome",
            ["model_name", "outcome"],
            registry=registry,
        )
        self._evictions = Counter(
            "mlx_gateway_model_evictions_total",
            "Models that gave up their memory, and why",
            ["model_name", "reason"],
            registry=registry,
        )
        self._progress = self._gauge("mlx_gateway_model_progress", "How far a model is with what it does (0 to 1)")
        self._leases = self._gauge("mlx_gateway_model_leases", "Requests that hold the model in memory")
        self._lease_waits = self._gauge(
            "mlx_gateway_model_requests_waiting", "Requests that wait until the model is in memory"
        )

    def preloads(self, hits: int, misses: int) -> None:
        """Since the process began."""
        self._preload_hits.reached(hits)
        self._preload_misses.reached(misses)
        self._preload_hit_rate.set(hits / max(1, hits + misses))

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

    def _gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(name, documentation, ["model_name"], registry=self.registry)

    def _counter(self, name: str, documentation: str) -> Counter:
        return Counter(name, documentation, ["model_name"], registry=self.registry)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, documentation, ["model_name"], buckets=buckets, registry=self.registry)


class GrowingTotal:
    """A counter fed with totals, which begin at 0 again when an engine is built anew."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._last = 0.0

    def reached(self, total: float) -> None:
        self._counter.inc(total - self._last if total >= self._last else total)
        self._last = total


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


class ModelMetrics:
    """One model's series. `model_name` is a configured id."""

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        self._running = metrics._running.labels(model_name)
        self._waiting = metrics._waiting.labels(model_name)
        self._waiting_by_class = {
            priority: metrics._waiting_by_class.labels(model_name, priority.name.lower()) for priority in Priority
        }
        self.served = metrics.served
        self._memory_bytes = metrics.memory_bytes
        self._prefixes = metrics.prefixes
        self.restarts = metrics._restarts.labels(model_name)
        self._totals = {
            "preempted": GrowingTotal(metrics._preemptions.labels(model_name)),
            "drafted_tokens": GrowingTotal(metrics._drafted.labels(model_name)),
            "accepted_tokens": GrowingTotal(metrics._accepted.labels(model_name)),
        }
        self._values = {
            "decode_seconds": metrics._decode_step.labels(model_name),
            "chunk_tokens": metrics._chunk_tokens.labels(model_name),
            "fixed_seconds": metrics._pass_fixed.labels(model_name),
            "seconds_per_token": metrics._pass_per_token.labels(model_name),
            "seconds_per_attended": metrics._pass_per_attended.labels(model_name),
        }
        self.prompt_tokens = metrics._prompt_tokens.labels(model_name)
        self.generation_tokens = metrics._generation_tokens.labels(model_name)
        self.first_token = metrics._first_token.labels(model_name)
        self.token_gap = metrics._token_gap.labels(model_name)
        self.duration = metrics._duration.labels(model_name)
        self.encoder_requests = metrics._encoder_requests.labels(model_name)
        self.encoder_running = metrics._encoder_running.labels(model_name)
        self.encoder_tokens = metrics._encoder_tokens.labels(model_name)
        self.load_seconds = metrics._load_seconds.labels(model_name)
        self.weight_bytes = metrics._weight_bytes.labels(model_name)
        self.loads = metrics._loads.labels(model_name, "ready")
        self.loads_failed = metrics._loads.labels(model_name, "failed")
        self.progress = metrics._progress.labels(model_name)
        self.leases = metrics._leases.labels(model_name)
        self.lease_waits = metrics._lease_waits.labels(model_name)
        self._evictions = {
            reason: metrics._evictions.labels(model_name, reason) for reason in ("operator", "memory", "idle")
        }
        self._prefix_queries = metrics._prefix_queries.labels(model_name)
        self._prefix_hits = metrics._prefix_hits.labels(model_name)
        self._prompt_sources = metrics._prompt_sources
        self._prefix_missed = metrics._prefix_missed
        self._model_name = model_name
        self._ended = {reason: metrics._ended.labels(model_name, reason) for reason in get_args(FinishReason)}
        self._unfinished = {
            reason: metrics._unfinished.labels(model_name, reason) for reason in ("cancelled", "failed")
        }

    def step_done(self, state: EngineState) -> None:
        """What an engine says of itself after a step."""
        self._running.set(state.running)
        self._waiting.set(state.waiting_rows)
        for priority, gauge in self._waiting_by_class.items():
            gauge.set(state.waiting.get(priority, 0))
        for name, total in self._totals.items():
            total.reached(getattr(state, name))
        for name, gauge in self._values.items():
            gauge.set(getattr(state, name))
        for owner, held in state.memory.items():
            self._memory_bytes.labels(owner).set(held)
        self._prefixes.used(state.prefixes)

    def prompt_began(self, tokens: int, reused: Mapping[str, int], cause: str) -> None:
        """How many of a prompt's tokens came from where, and why the others must be computed.

        Sources and causes must come from fixed sets.
        """
        computed = tokens - sum(reused.values())
        self._prefix_queries.inc(tokens)
        self._prefix_hits.inc(tokens - computed)
        for source, count in {**reused, "computed": computed}.items():
            self._prompt_sources.labels(self._model_name, source).inc(count)
        self._prefix_missed.labels(self._model_name, cause).inc(computed)

    def evicted(self, reason: str) -> None:
        self._evictions[reason].inc()

    def choice_ended(self, reason: str) -> None:
        self._ended[reason].inc()

    def request_unfinished(self, reason: str) -> None:
        self._unfinished[reason].inc()
