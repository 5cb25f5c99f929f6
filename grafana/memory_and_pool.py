"""Who holds the memory, and which models come and go?"""

from grafana.panels import Chart, Page, percentiles, rate

PAGE = Page(
    "mlx-gateway-memory",
    "mlx-gateway: Memory and pool",
    "Who holds how much of the memory budget; models loaded, evicted and waited for; servers elsewhere; downloads.",
    (
        (
            "Memory",
            (
                Chart(
                    "Budget by owner",
                    "Weights, caches of running requests, kept prefixes, work space, free",
                    "bytes",
                    (("sum by (owner) (mlx_gateway_memory_bytes{owner!='budget'})", "{{owner}}"),),
                    "stacked",
                ),
                Chart(
                    "Use of the caches' room",
                    "Share of the memory for caches that running requests hold",
                    "percentunit",
                    (("max(vllm:kv_cache_usage_perc)", "caches"),),
                ),
                Chart(
                    "Weights by model",
                    "Memory of each model's weights",
                    "bytes",
                    (("mlx_gateway_model_weight_bytes", "{{model_name}}"),),
                    "stacked",
                ),
                Chart(
                    "Put back into the queue",
                    "Requests that gave way because memory ran short, by second",
                    "reqps",
                    rate("vllm:num_preemptions_total", "model_name"),
                ),
            ),
        ),
        (
            "Models",
            (
                Chart(
                    "Loads",
                    "Loads of weights in the last hour, by outcome",
                    "short",
                    (("sum by (outcome) (increase(mlx_gateway_model_loads_total[1h]))", "{{outcome}}"),),
                ),
                Chart(
                    "Evictions",
                    "Models that gave up their memory in the last hour, by reason",
                    "short",
                    (("sum by (reason) (increase(mlx_gateway_model_evictions_total[1h]))", "{{reason}}"),),
                ),
                Chart(
                    "Last load",
                    "How long each model's last load took",
                    "s",
                    (("mlx_gateway_model_load_seconds", "{{model_name}}"),),
                ),
                Chart(
                    "Progress",
                    "How far each model is with what it does",
                    "percentunit",
                    (("mlx_gateway_model_progress", "{{model_name}}"),),
                ),
                Chart(
                    "Held by requests",
                    "Requests that hold each model in memory",
                    "short",
                    (("mlx_gateway_model_leases", "{{model_name}}"),),
                    "stacked",
                ),
                Chart(
                    "Waiting for a load",
                    "Requests that wait until their model is in memory",
                    "short",
                    (("mlx_gateway_model_requests_waiting", "{{model_name}}"),),
                    "stacked",
                ),
                Chart(
                    "Preloads that were wanted",
                    "Share of the models that were loaded before anybody asked",
                    "percentunit",
                    (("mlx_gateway_preload_hit_rate", "wanted"),),
                ),
                Chart("Downloads", "Listed downloads, by state", "short", (("mlx_gateway_downloads", "{{state}}"),)),
            ),
        ),
        (
            "Servers elsewhere",
            (
                Chart("Up", "1 for a server that answers", "bool", (("mlx_gateway_upstream_up", "{{upstream}}"),)),
                Chart(
                    "Requests there",
                    "Requests that each server works on",
                    "short",
                    (("mlx_gateway_upstream_outstanding_requests", "{{upstream}}"),),
                    "stacked",
                ),
                Chart(
                    "Failures",
                    "Requests that a server did not answer, by reason",
                    "reqps",
                    rate("mlx_gateway_upstream_failures_total", "reason"),
                ),
                Chart(
                    "Head of the answer",
                    "From sending a request to the head of its answer",
                    "s",
                    percentiles("mlx_gateway_upstream_answer_seconds", "upstream"),
                ),
                Chart(
                    "Waiting for a server",
                    "Requests that wait until a server has room",
                    "short",
                    (("mlx_gateway_upstream_waiting_requests", "{{model_name}}"),),
                ),
            ),
        ),
    ),
)
