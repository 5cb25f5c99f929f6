"""What an engine does at the moment, and what it has learned of its machine, by model."""

from prometheus_client import CollectorRegistry

from gateway.generation.request import Priority
from gateway.observability.engine_state import EngineState
from gateway.observability.series import GrowingTotal, ModelSeries


class EngineMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        series = ModelSeries(registry)
        self.running = series.gauge("vllm:num_requests_running", "Rows (choices) in the batch")
        self.waiting = series.gauge("vllm:num_requests_waiting", "Rows (choices) waiting for a place in the batch")
        self.waiting_by_class = series.gauge(
            "mlx_gateway_requests_waiting", "Rows (choices) waiting for a place in the batch, by class", "priority"
        )
        self.cache_usage = series.gauge(
            "vllm:kv_cache_usage_perc",
            "Share of the memory for caches that running requests of all models hold (1 is all of it)",
        )
        self.restarts = series.counter("mlx_gateway_engine_restarts_total", "Engines built again after a breakdown")
        self.preemptions = series.counter(
            "vllm:num_preemptions_total", "Requests put back into the queue because memory ran short"
        )
        self.drafted = series.counter("vllm:spec_decode_num_draft_tokens_total", "Tokens proposed by prompt lookup")
        self.accepted = series.counter("vllm:spec_decode_num_accepted_tokens_total", "Proposed tokens that held")
        self.decode_step = series.gauge("mlx_gateway_decode_step_seconds", "A decode step of the present batch")
        self.chunk_tokens = series.gauge("mlx_gateway_prefill_chunk_tokens", "Tokens per prompt of the last chunk")
        self.pass_fixed = series.gauge("mlx_gateway_pass_fixed_seconds", "Learned cost of a forward pass by itself")
        self.pass_per_token = series.gauge(
            "mlx_gateway_pass_token_seconds", "Learned cost of each token of a forward pass"
        )
        self.pass_per_attended = series.gauge(
            "mlx_gateway_pass_attended_token_seconds", "Learned cost of each pair of a token and one it attends to"
        )
        self.encoder_requests = series.counter(
            "mlx_gateway_encoder_requests_total", "Requests for embeddings or a ranking that were computed"
        )
        self.encoder_running = series.gauge(
            "mlx_gateway_encoder_requests_running", "Requests for embeddings or a ranking that are being computed"
        )
        self.encoder_tokens = series.counter("mlx_gateway_encoder_tokens_total", "Tokens of these requests' texts")


class ModelEngineMetrics:
    """One model's series."""

    def __init__(self, metrics: EngineMetrics, model_name: str) -> None:
        self.restarts = metrics.restarts.labels(model_name)
        self.encoder_requests = metrics.encoder_requests.labels(model_name)
        self.encoder_running = metrics.encoder_running.labels(model_name)
        self.encoder_tokens = metrics.encoder_tokens.labels(model_name)
        self._cache_usage = metrics.cache_usage.labels(model_name)
        self._waiting_by_class = {
            priority: metrics.waiting_by_class.labels(model_name, priority.name.lower()) for priority in Priority
        }
        self._totals = {
            "preempted": GrowingTotal(metrics.preemptions.labels(model_name)),
            "drafted_tokens": GrowingTotal(metrics.drafted.labels(model_name)),
            "accepted_tokens": GrowingTotal(metrics.accepted.labels(model_name)),
        }
        self._values = {
            "running": metrics.running.labels(model_name),
            "waiting_rows": metrics.waiting.labels(model_name),
            "decode_seconds": metrics.decode_step.labels(model_name),
            "chunk_tokens": metrics.chunk_tokens.labels(model_name),
            "fixed_seconds": metrics.pass_fixed.labels(model_name),
            "seconds_per_token": metrics.pass_per_token.labels(model_name),
            "seconds_per_attended": metrics.pass_per_attended.labels(model_name),
        }

    def step_done(self, state: EngineState) -> None:
        for priority, gauge in self._waiting_by_class.items():
            gauge.set(state.waiting.get(priority, 0))
        for name, total in self._totals.items():
            total.reached(getattr(state, name))
        for name, gauge in self._values.items():
            gauge.set(getattr(state, name))
        held = state.memory.get("kv_cache", 0)
        room = state.memory.get("budget", 0) - state.memory.get("weights", 0) - state.memory.get("work_space", 0)
        self._cache_usage.set(min(1.0, held / room) if room > 0 else 0)
