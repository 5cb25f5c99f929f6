"""The process and its machine, read whenever somebody asks; and how late the event loop is."""

import asyncio
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LOOK_SECONDS = 0.25
LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class ProcessMetrics(Collector):
    """Under the names that all Prometheus clients use, also on macOS, where the client library has none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._process = psutil.Process()
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        with self._process.oneshot():
            times = self._process.cpu_times()
            resident = self._process.memory_info().rss
            threads = self._process.num_threads()
            started = self._process.create_time()
        memory = psutil.virtual_memory()
        yield CounterMetricFamily(
            "process_cpu_seconds", "Processor time of the gateway", value=times.user + times.system
        )
        for name, documentation, value in (
            ("process_resident_memory_bytes", "Memory of the gateway's process in RAM", resident),
            ("process_start_time_seconds", "When the gateway started, since 1970", started),
            ("process_open_fds", "Files and sockets that the gateway has open", self._process.num_fds()),
            ("mlx_gateway_threads", "Threads of the gateway", threads),
            ("mlx_gateway_host_memory_available_bytes", "Memory that the machine could still give", memory.available),
            ("mlx_gateway_host_memory_bytes", "Memory of the machine", memory.total),
            ("mlx_gateway_host_cores", "Logical processor cores of the machine", psutil.cpu_count() or 1),
        ):
            yield GaugeMetricFamily(name, documentation, value=value)


class EventLoopMetrics:
    """How late the event loop runs what is due. Run `watch` as a task on it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            "mlx_gateway_event_loop_lag_seconds",
            "How late the event loop ran a timer that was due",
            buckets=LAG_BUCKETS,
            registry=registry,
        )

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self._lag.observe(max(0.0, loop.time() - due))
