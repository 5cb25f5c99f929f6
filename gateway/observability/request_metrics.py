"""How long requests take, and how they end, by model and class.

`vllm:*` names and bucket edges are those of vLLM's server (`vllm/v1/metrics/loggers.py`), which existing dashboards
query; beside them stand our own names with the class of the request.
"""

from typing import get_args

from prometheus_client import CollectorRegistry

from gateway.generation.events import FinishReason
from gateway.generation.request import Priority
from gateway.observability.series import ModelSeries

FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
TOKEN_GAP_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)
TOKEN_COUNT_BUCKETS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))

STALL_STEPS = 10
"""A gap of so many decode steps is a stall: a chunk of a prompt may take five (`engine.stall_budget`)."""
SHORTEST_STALL_SECONDS = 0.1
"""Gaps that nobody sees are none."""


class RequestMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        series = ModelSeries(registry)
        self.prompt_tokens = series.counter("vllm:prompt_tokens_total", "Prompt tokens of admitted requests")
        self.generation_tokens = series.counter("vllm:generation_tokens_total", "Generated tokens")
        self.first_token = series.histogram(
            "vllm:time_to_first_token_seconds", "From the request to its first token", FIRST_TOKEN_BUCKETS
        )
        self.token_gap = series.histogram(
            "vllm:inter_token_latency_seconds", "Between two deliveries of one request", TOKEN_GAP_BUCKETS
        )
        self.first_token_by_class = series.histogram(
            "mlx_gateway_time_to_first_token_seconds",
            "From the request to its first token, by class",
            FIRST_TOKEN_BUCKETS,
            "priority",
        )
        self.token_gap_by_class = series.histogram(
            "mlx_gateway_inter_token_latency_seconds",
            "Between two deliveries of one request, by class",
            TOKEN_GAP_BUCKETS,
            "priority",
        )
        self.token_seconds = series.histogram(
            "vllm:request_time_per_output_token_seconds",
            "A request's time from its first to its last token, by token",
            TOKEN_GAP_BUCKETS,
        )
        self.duration = series.histogram(
            "vllm:e2e_request_latency_seconds", "From the request to its end", REQUEST_BUCKETS
        )
        self.queue = series.histogram(
            "vllm:request_queue_time_seconds", "From the engine's queue to the start of the prompt", REQUEST_BUCKETS
        )
        self.prefill = series.histogram(
            "vllm:request_prefill_time_seconds", "From the start of the prompt to the first token", REQUEST_BUCKETS
        )
        self.decode = series.histogram(
            "vllm:request_decode_time_seconds", "From the first token to the last", REQUEST_BUCKETS
        )
        self.prompt_size = series.histogram(
            "vllm:request_prompt_tokens", "Prompt tokens of a finished request", TOKEN_COUNT_BUCKETS
        )
        self.answer_size = series.histogram(
            "vllm:request_generation_tokens", "Generated tokens of a finished request", TOKEN_COUNT_BUCKETS
        )
        self.ended = series.counter("vllm:request_success_total", "Ended choices by reason", "finished_reason")
        self.unfinished = series.counter(
            "mlx_gateway_unfinished_requests_total",
            "Admitted requests that did not finish: the client left, or an error ended them",
            "reason",
        )
        self.stalls = series.counter(
            "mlx_gateway_stalls_total", f"Gaps within an answer of more than {STALL_STEPS} decode steps and 0.1 s"
        )
        self.stalled_seconds = series.counter("mlx_gateway_stalled_seconds_total", "The time of these gaps")


class ModelRequestMetrics:
    """One model's series."""

    def __init__(self, metrics: RequestMetrics, model_name: str) -> None:
        self.prompt_tokens = metrics.prompt_tokens.labels(model_name)
        self.generation_tokens = metrics.generation_tokens.labels(model_name)
        self.duration = metrics.duration.labels(model_name)
        self.token_seconds = metrics.token_seconds.labels(model_name)
        self.queue = metrics.queue.labels(model_name)
        self.prefill = metrics.prefill.labels(model_name)
        self.decode = metrics.decode.labels(model_name)
        self.prompt_size = metrics.prompt_size.labels(model_name)
        self.answer_size = metrics.answer_size.labels(model_name)
        self._first_token = metrics.first_token.labels(model_name)
        self._token_gap = metrics.token_gap.labels(model_name)
        self._first_token_by_class, self._token_gap_by_class = (
            {priority: histogram.labels(model_name, priority.name.lower()) for priority in Priority}
            for histogram in (metrics.first_token_by_class, metrics.token_gap_by_class)
        )
        self._stalls = metrics.stalls.labels(model_name)
        self._stalled_seconds = metrics.stalled_seconds.labels(model_name)
        self._ended = {reason: metrics.ended.labels(model_name, reason) for reason in get_args(FinishReason)}
        self._unfinished = {reason: metrics.unfinished.labels(model_name, reason) for reason in ("cancelled", "failed")}

    def first_token(self, seconds: float, priority: Priority) -> None:
        self._first_token.observe(seconds)
        self._first_token_by_class[priority].observe(seconds)

    def token_gap(self, seconds: float, priority: Priority, step_seconds: float) -> None:
        """`step_seconds` is what a decode step takes now."""
        self._token_gap.observe(seconds)
        self._token_gap_by_class[priority].observe(seconds)
        if seconds > max(SHORTEST_STALL_SECONDS, STALL_STEPS * step_seconds):
            self._stalls.inc()
            self._stalled_seconds.inc(seconds)

    def choice_ended(self, reason: str) -> None:
        self._ended[reason].inc()

    def unfinished(self, reason: str) -> None:
        self._unfinished[reason].inc()
