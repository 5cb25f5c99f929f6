"""What do clients not wait for, and why do they wait for the rest?"""

from grafana.panels import Chart, Page, rate, share

PAGE = Page(
    "mlx-gateway-cache",
    "mlx-gateway: Cache",
    "The prefix cache: what it saves, what it holds in memory and on disk, and why prompts missed.",
    (
        (
            "What it saves",
            (
                Chart(
                    "Share of prompts reused",
                    "Prompt tokens that were not computed again",
                    "percentunit",
                    (
                        (
                            share("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total", "model_name"),
                            "{{model_name}}",
                        ),
                    ),
                ),
                Chart(
                    "Prompt tokens by source",
                    "From memory, disk, another request, or computed",
                    "short",
                    rate("mlx_gateway_prompt_tokens_by_source_total", "source"),
                    "stacked",
                ),
                Chart(
                    "Why tokens were computed",
                    "Computed prompt tokens by second, by likely cause",
                    "short",
                    rate("mlx_gateway_prefix_cache_missed_tokens_total", "cause"),
                    "stacked",
                ),
            ),
        ),
        (
            "What it holds",
            (
                Chart(
                    "Held",
                    "Bytes of prompts and answers, by tier",
                    "bytes",
                    (("mlx_gateway_prefix_cache_bytes", "{{tier}}"),),
                ),
                Chart(
                    "Share of the limit",
                    "How full each tier is",
                    "percentunit",
                    (
                        (
                            "mlx_gateway_prefix_cache_bytes / clamp_min(mlx_gateway_prefix_cache_limit_bytes, 1)",
                            "{{tier}}",
                        ),
                    ),
                ),
                Chart(
                    "Made room",
                    "Blobs that made room for others, by second and tier",
                    "short",
                    rate("mlx_gateway_prefix_cache_evicted_total", "tier"),
                ),
                Chart(
                    "Written",
                    "Blobs that were written to disk, by second",
                    "short",
                    rate("mlx_gateway_prefix_cache_written_total", "tier"),
                ),
                Chart(
                    "Not written",
                    "Blobs that were not: too much waited, or the disk had no room",
                    "short",
                    rate("mlx_gateway_prefix_cache_dropped_total", "tier"),
                ),
                Chart(
                    "Time with the disk",
                    "Seconds of reading and writing in each second",
                    "s",
                    rate("mlx_gateway_prefix_cache_seconds_total", "does"),
                ),
            ),
        ),
    ),
)
