"""How long does it take, and where does the time go?"""

from grafana.panels import Chart, Page, percentiles, rate, share

P95 = (0.95,)

PAGE = Page(
    "mlx-gateway-latency",
    "mlx-gateway: Latency",
    "Percentiles of the time to the first token and between tokens, by model and class, and where the time goes.",
    (
        (
            "What clients feel",
            (
                Chart(
                    "Time to first token by model",
                    "From the request to its first token",
                    "s",
                    percentiles("vllm:time_to_first_token_seconds", "model_name"),
                ),
                Chart(
                    "Time to first token by class",
                    "Interactive requests should not wait for long prompts of others",
                    "s",
                    percentiles("mlx_gateway_time_to_first_token_seconds", "priority"),
                ),
                Chart(
                    "Between tokens by model",
                    "Between two deliveries of one answer",
                    "s",
                    percentiles("vllm:inter_token_latency_seconds", "model_name"),
                ),
                Chart(
                    "Between tokens by class",
                    "Between two deliveries of one answer",
                    "s",
                    percentiles("mlx_gateway_inter_token_latency_seconds", "priority"),
                ),
                Chart(
                    "By output token",
                    "A request's time after its first token, by token",
                    "s",
                    percentiles("vllm:request_time_per_output_token_seconds", "model_name"),
                ),
                Chart(
                    "Whole request",
                    "From the request to its end",
                    "s",
                    percentiles("vllm:e2e_request_latency_seconds", "model_name"),
                ),
            ),
        ),
        (
            "Where the time goes",
            (
                Chart(
                    "In the queue",
                    "From the engine's queue to the start of the prompt",
                    "s",
                    percentiles("vllm:request_queue_time_seconds", "model_name", P95),
                ),
                Chart(
                    "Prompt",
                    "From the start of the prompt to the first token",
                    "s",
                    percentiles("vllm:request_prefill_time_seconds", "model_name", P95),
                ),
                Chart(
                    "Answer",
                    "From the first token to the last",
                    "s",
                    percentiles("vllm:request_decode_time_seconds", "model_name", P95),
                ),
                Chart(
                    "Decode step",
                    "What a step of the present batch takes",
                    "s",
                    (("mlx_gateway_decode_step_seconds", "{{model_name}}"),),
                ),
                Chart(
                    "Stalls",
                    "Gaps of more than ten decode steps within an answer, by second",
                    "short",
                    rate("mlx_gateway_stalls_total", "model_name"),
                ),
                Chart(
                    "Share of time stalled",
                    "Seconds of such gaps in each second, all answers together",
                    "s",
                    rate("mlx_gateway_stalled_seconds_total", "model_name"),
                ),
                Chart(
                    "Prompt chunk",
                    "Tokens of a prompt that are computed at once: few while others stream",
                    "short",
                    (("mlx_gateway_prefill_chunk_tokens", "{{model_name}}"),),
                ),
                Chart(
                    "Event loop lag",
                    "How late the server's own work runs",
                    "s",
                    percentiles("mlx_gateway_event_loop_lag_seconds"),
                ),
            ),
        ),
        (
            "Sizes",
            (
                Chart(
                    "Prompt size",
                    "Tokens of finished requests' prompts",
                    "short",
                    percentiles("vllm:request_prompt_tokens"),
                ),
                Chart(
                    "Answer size",
                    "Tokens of finished requests' answers",
                    "short",
                    percentiles("vllm:request_generation_tokens"),
                ),
                Chart(
                    "Draft tokens that held",
                    "Share of the tokens proposed by prompt lookup",
                    "percentunit",
                    (
                        (
                            share(
                                "vllm:spec_decode_num_accepted_tokens_total", "vllm:spec_decode_num_draft_tokens_total"
                            ),
                            "held",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
