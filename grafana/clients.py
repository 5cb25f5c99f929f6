"""What do clients ask for, and what is refused?"""

from grafana.panels import Chart, Page, rate

PAGE = Page(
    "mlx-gateway-clients",
    "mlx-gateway: Clients and keys",
    "What clients ask for, which routes and keys they use, and what is refused.",
    (
        (
            "Clients",
            (
                Chart(
                    "Requests by route",
                    "Answered HTTP requests by second",
                    "reqps",
                    rate("mlx_gateway_http_requests_total", "route"),
                    "stacked",
                ),
                Chart(
                    "Client errors",
                    "Answers with a status of 400 to 499, by route",
                    "reqps",
                    (
                        (
                            "sum by (route, status) (rate(mlx_gateway_http_requests_total{status=~'4..'}[5m]))",
                            "{{route}} {{status}}",
                        ),
                    ),
                    "stacked",
                ),
                Chart(
                    "Server errors",
                    "Answers with a status of 500 to 599, by second",
                    "reqps",
                    (
                        (
                            "sum(rate(mlx_gateway_http_requests_total{status=~'5..'}[5m])) or vector(0)",
                            "errors",
                        ),
                    ),
                ),
                Chart(
                    "Refused generation",
                    "Requests that were refused before any token, by reason",
                    "reqps",
                    rate("mlx_gateway_refused_requests_total", "reason"),
                    "stacked",
                ),
                Chart(
                    "Clients that left",
                    "Answers whose client closed the connection, by model",
                    "reqps",
                    rate("mlx_gateway_unfinished_requests_total", "model_name", "{reason='cancelled'}"),
                    "stacked",
                ),
            ),
        ),
        (
            "Keys",
            (
                Chart(
                    "Requests by key",
                    "Requests that an API key was let in with, by the key's name; empty without keys",
                    "reqps",
                    rate("mlx_gateway_key_requests_total", "key"),
                    "stacked",
                ),
                Chart(
                    "Tokens by key",
                    "Prompt and answer tokens by second, by the key's name",
                    "short",
                    rate("mlx_gateway_key_tokens_total", "key"),
                    "stacked",
                ),
                Chart(
                    "Not let in",
                    "Requests that reached no endpoint by second: no or a wrong key, a limit, a foreign page",
                    "reqps",
                    rate("mlx_gateway_requests_refused_by_guard_total", "reason"),
                    "stacked",
                ),
            ),
        ),
    ),
)
