"""Who was refused, and what each API key uses."""

from prometheus_client import CollectorRegistry, Counter


class SecurityMetrics:
    """`key` is a key's name, so there are as many values as keys were made."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "mlx_gateway_requests_refused_by_guard",
            "Requests that were let to no endpoint, by the reason",
            ["reason"],
            registry=registry,
        )
        self.requests = Counter(
            "mlx_gateway_key_requests", "Requests that an API key was let in with", ["key"], registry=registry
        )
        self.tokens = Counter(
            "mlx_gateway_key_tokens", "Tokens, prompt and answer, that an API key used", ["key"], registry=registry
        )
