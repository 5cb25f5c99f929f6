"""What the machine says of itself, and what was done about it."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class HardwareMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.pressure = Gauge(
            "mlx_gateway_memory_pressure", "Of the machine: 0 normal, 1 warning, 2 critical", registry=registry
        )
        self.thermal = Gauge("mlx_gateway_thermal_state", "0 nominal, 1 fair, 2 serious, 3 critical", registry=registry)
        self.reactions = Counter(
            "mlx_gateway_pressure_reactions_total",
            "How often each reaction to memory pressure came into force",
            ["reaction"],
            registry=registry,
        )
