"""What is it doing now?"""

from grafana.panels import Chart, Page, percentiles, rate

PAGE = Page(
    "mlx-gateway-overview",
    "mlx-gateway: Overview",
    "What the gateway does now: requests, speed, what waits, and whether anything is wrong.",
    (
        (
            "Now",
            (
                Chart(
                    "Running",
                    "Answers that are being generated",
                    "short",
                    (("sum(vllm:num_requests_running)", ""),),
                    "number",
                ),
                Chart(
                    "Waiting",
                    "Answers that wait for a place in the batch",
                    "short",
                    (("sum(vllm:num_requests_waiting)", ""),),
                    "number",
                ),
                Chart(
                    "Tokens by second",
                    "Generated tokens of all models",
                    "short",
                    (("sum(rate(vllm:generation_tokens_total[1m]))", ""),),
                    "number",
                ),
                Chart(
                    "Up since",
                    "How long the gateway has been running",
                    "s",
                    (("time() - process_start_time_seconds{job='mlx-gateway'}", ""),),
                    "number",
                ),
            ),
        ),
        (
            "Work",
            (
                Chart(
                    "Requests",
                    "Answered HTTP requests by second, by status",
                    "reqps",
                    rate("mlx_gateway_http_requests_total", "status"),
                    "stacked",
                ),
                Chart(
                    "Generated tokens",
                    "Generated tokens by second, by model",
                    "short",
                    rate("vllm:generation_tokens_total", "model_name"),
                    "stacked",
                ),
                Chart(
                    "Prompt tokens",
                    "Tokens of admitted prompts by second, by model",
                    "short",
                    rate("vllm:prompt_tokens_total", "model_name"),
                    "stacked",
                ),
                Chart(
                    "Time to first token",
                    "How long clients wait until an answer begins",
                    "s",
                    percentiles("vllm:time_to_first_token_seconds"),
                ),
                Chart(
                    "Running answers",
                    "Rows in each model's batch",
                    "short",
                    (("sum by (model_name) (vllm:num_requests_running)", "{{model_name}}"),),
                    "stacked",
                ),
                Chart(
                    "Waiting answers",
                    "Rows that wait for a place, by class",
                    "short",
                    (("sum by (priority) (mlx_gateway_requests_waiting)", "{{priority}}"),),
                    "stacked",
                ),
                Chart(
                    "Embeddings and rankings",
                    "Computed requests by second, by model",
                    "reqps",
                    rate("mlx_gateway_encoder_requests_total", "model_name"),
                    "stacked",
                ),
            ),
        ),
        (
            "Trouble",
            (
                Chart(
                    "Refused",
                    "Requests that were refused before any token, by reason",
                    "reqps",
                    rate("mlx_gateway_refused_requests_total", "reason"),
                    "stacked",
                ),
                Chart(
                    "Unfinished",
                    "Admitted requests whose client left, or that an error ended",
                    "reqps",
                    rate("mlx_gateway_unfinished_requests_total", "reason"),
                    "stacked",
                ),
                Chart(
                    "How answers ended",
                    "Ended answers by second, by reason",
                    "reqps",
                    rate("vllm:request_success_total", "finished_reason"),
                    "stacked",
                ),
                Chart(
                    "Engine restarts",
                    "Engines built again after a breakdown, in the last hour",
                    "short",
                    (("sum by (model_name) (increase(mlx_gateway_engine_restarts_total[1h]))", "{{model_name}}"),),
                ),
            ),
        ),
    ),
)
