"""How is the machine?"""

from grafana.panels import Chart, Page

PAGE = Page(
    "mlx-gateway-hardware",
    "mlx-gateway: Hardware",
    "Memory and processor of the gateway's process and its machine, and what was learned of its speed.",
    (
        (
            "Process and machine",
            (
                Chart(
                    "Memory of the process",
                    "In RAM, beside what the machine could still give",
                    "bytes",
                    (
                        ("process_resident_memory_bytes{job='mlx-gateway'}", "gateway"),
                        ("mlx_gateway_host_memory_available_bytes", "available"),
                        ("mlx_gateway_host_memory_bytes", "machine"),
                    ),
                ),
                Chart(
                    "Processor",
                    "Cores that the gateway keeps busy, beside those there are",
                    "short",
                    (
                        ("rate(process_cpu_seconds_total{job='mlx-gateway'}[5m])", "gateway"),
                        ("mlx_gateway_host_cores", "machine"),
                    ),
                ),
                Chart(
                    "Open files and sockets",
                    "Of the gateway's process",
                    "short",
                    (("process_open_fds{job='mlx-gateway'}", "open"),),
                ),
                Chart("Threads", "Of the gateway's process", "short", (("mlx_gateway_threads", "threads"),)),
            ),
        ),
        (
            "Under pressure",
            (
                Chart(
                    "Memory pressure",
                    "Of the machine: 0 normal, 1 warning, 2 critical",
                    "short",
                    (("mlx_gateway_memory_pressure", "pressure"),),
                ),
                Chart(
                    "Heat",
                    "Of the machine: 0 nominal, 1 fair, 2 serious, 3 critical",
                    "short",
                    (("mlx_gateway_thermal_state", "heat"),),
                ),
                Chart(
                    "Reactions",
                    "Reactions to memory pressure that came into force in the last hour; value 0 where there was none",
                    "short",
                    (
                        (
                            "sum by (reaction) (increase(mlx_gateway_pressure_reactions_total[1h])) or vector(0)",
                            "{{reaction}}",
                        ),
                    ),
                ),
            ),
        ),
        (
            "Learned of this machine",
            (
                Chart(
                    "Pass by itself",
                    "What a forward pass costs before its tokens",
                    "s",
                    (("mlx_gateway_pass_fixed_seconds", "{{model_name}}"),),
                ),
                Chart(
                    "Each token",
                    "What each token of a pass costs",
                    "s",
                    (("mlx_gateway_pass_token_seconds", "{{model_name}}"),),
                ),
                Chart(
                    "Each attended token",
                    "What each pair of a token and one before it costs",
                    "s",
                    (("mlx_gateway_pass_attended_token_seconds", "{{model_name}}"),),
                ),
                Chart(
                    "Start to first token",
                    "From the start of the process to its first answer's first token",
                    "s",
                    (("mlx_gateway_start_to_first_token_seconds", "start"),),
                    "number",
                ),
            ),
        ),
    ),
)
