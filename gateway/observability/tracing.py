"""OpenTelemetry traces of requests, by the GenAI semantic conventions; off unless `otel.endpoint` is set.

Source: OpenTelemetry's semantic conventions, "Semantic conventions for generative client AI spans". Spans hold times
and counts, no word of any prompt. Needs the `otel` extra.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gateway.config import OtelConfig
from gateway.errors import ConfigError
from gateway.observability.request_record import EndedRequest

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

OPERATIONS = {
    "/embeddings": "embeddings",
    "/embed": "embeddings",
    "/rerank": "rerank",
    "/chat/completions": "chat",
    "/completions": "text_completion",
}
"""By the end of an endpoint's path; all others are `chat`."""

STOP_MILLISECONDS = 3000


class Tracing:
    """Belongs to the event loop; spans are sent by a thread of the library's."""

    def __init__(self, config: OtelConfig, exporter: "SpanExporter | None" = None) -> None:
        """Raises `ConfigError` where the library is missing. `exporter` stands for the one over HTTP."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as error:
            raise ConfigError("otel.endpoint is set, which needs the otel extra: mlx-gateway[otel].") from error
        sampler = ParentBased(TraceIdRatioBased(config.sample))
        resource = Resource.create({"service.name": config.service_name})
        self._provider = TracerProvider(sampler=sampler, resource=resource)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=config.endpoint, headers=dict(config.headers)))
        )
        self._tracer = self._provider.get_tracer("mlx-gateway")

    def begin(self, headers: Mapping[str, str]) -> "Span":
        """A request came; its span belongs to the trace that its `traceparent` names, if it has one."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(dict(headers))
        return self._tracer.start_span("request", context, kind=SpanKind.SERVER)

    def end(self, span: "Span", ended: EndedRequest) -> None:
        """With spans of its queueing, prefill and decoding within it."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        operation = next((name for end, name in OPERATIONS.items() if ended.endpoint.endswith(end)), "chat")
        span.update_name(f"{operation} {ended.model}" if ended.served else f"{ended.method} {ended.endpoint}")
        span.set_attributes(_attributes(ended, operation))
        if ended.outcome == "failed":
            span.set_status(Status(StatusCode.ERROR, ended.error))
        within = set_span_in_context(span)
        for name, begin, end in _parts(ended):
            part = self._tracer.start_span(name, within, start_time=_nanoseconds(ended.started_at + begin))
            part.end(_nanoseconds(ended.started_at + end))
        span.end()

    def stop(self) -> None:
        """Sends what is left. Blocks, for some seconds at most."""
        with suppress(Exception):  # whoever collects traces may be gone
            self._provider.force_flush(STOP_MILLISECONDS)
        self._provider.shutdown()


def traceparent(span: "Span") -> dict[str, str]:
    """Headers by which a server that works for this request knows its trace."""
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, set_span_in_context(span))
    return headers


def _attributes(ended: EndedRequest, operation: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": ended.method,
        "http.route": ended.endpoint,
        "http.response.status_code": ended.status,
        "mlx_gateway.request.id": ended.id,
        "mlx_gateway.outcome": ended.outcome,
        "user_agent.name": ended.client,
        "error.type": ended.error,
    }
    if ended.served:
        attributes |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "mlx_gateway",
            "gen_ai.request.model": ended.model,
            "gen_ai.conversation.id": ended.session,
            "gen_ai.usage.input_tokens": ended.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": ended.cached_tokens,
            "gen_ai.usage.output_tokens": ended.generated_tokens,
        }
        if ended.finish_reason:
            attributes["gen_ai.response.finish_reasons"] = [ended.finish_reason]
        if ended.first_token_seconds is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = ended.first_token_seconds
    return {name: value for name, value in attributes.items() if value != ""}


def _parts(ended: EndedRequest) -> list[tuple[str, float, float]]:
    """Name, begin and end in seconds from the request's start."""
    parts = []
    queue, first = ended.queue_seconds, ended.first_token_seconds
    if queue is not None:
        parts.append(("queue", 0.0, queue))
        parts.append(("prefill", queue, max(queue, first if first is not None else ended.seconds)))
    if first is not None:
        parts.append(("decode", first, ended.seconds))
    return parts


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
