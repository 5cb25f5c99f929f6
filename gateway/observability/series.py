"""How metrics that carry a model's name are made, and totals of others put into counters."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class ModelSeries:
    """Makes metrics with the label `model_name`, and more if given. Its values are configured ids."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, ["model_name", *labels], registry=self._registry)

    def counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, ["model_name", *labels], registry=self._registry)

    def histogram(self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, documentation, ["model_name", *labels], buckets=buckets, registry=self._registry)


class GrowingTotal:
    """A counter fed with totals, which begin at 0 again when an engine is built anew."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._last = 0.0

    def reached(self, total: float) -> None:
        self._counter.inc(total - self._last if total >= self._last else total)
        self._last = total
