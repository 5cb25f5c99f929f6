"""What was asked of servers elsewhere. Labels are configured: a model's id, and a server's address."""

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Trouble = Literal["unreachable", "silent", "cut", "garbage", "refused", "busy"]
"""No connection; no byte in time; the connection or the answer ended early; no answer of the kind that was asked for;
a redirect or a key that it does not take; a status that says to try elsewhere."""

LABELS = ["model_name", "upstream"]
ANSWER_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 600.0)


class UpstreamMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def name(what: str) -> str:
            return f"mlx_gateway_upstream_{what}"

        self.up = Gauge(name("up"), "1 if it answers, else 0", LABELS, registry=registry)
        self.outstanding = Gauge(name("outstanding_requests"), "Requests it works on", LABELS, registry=registry)
        self.requests = Counter(name("requests_total"), "Requests it was sent", LABELS, registry=registry)
        self.troubles = Counter(
            name("failures_total"), "Requests it did not answer, by reason", [*LABELS, "reason"], registry=registry
        )
        self.answer_seconds = Histogram(
            name("answer_seconds"),
            "From sending a request to the head of its answer",
            LABELS,
            buckets=ANSWER_BUCKETS,
            registry=registry,
        )
        self.waiting = Gauge(
            name("waiting_requests"),
            "Requests that wait until a server has room",
            ["model_name"],
            registry=registry,
        )

    def of(self, model_name: str, upstream: str) -> "OneUpstreamMetrics":
        return OneUpstreamMetrics(self, model_name, upstream)


class OneUpstreamMetrics:
    """One server's series."""

    def __init__(self, metrics: UpstreamMetrics, model_name: str, upstream: str) -> None:
        self.up = metrics.up.labels(model_name, upstream)
        self.outstanding = metrics.outstanding.labels(model_name, upstream)
        self.requests = metrics.requests.labels(model_name, upstream)
        self.answer_seconds = metrics.answer_seconds.labels(model_name, upstream)
        self.troubles = {reason: metrics.troubles.labels(model_name, upstream, reason) for reason in get_args(Trouble)}
