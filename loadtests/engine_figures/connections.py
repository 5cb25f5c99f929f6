"""Many clients that connect in one moment: is any of them cut off or refused?"""

import time
from collections import Counter, defaultdict

from loadtests.connection_burst import OK, burst
from loadtests.contenders import Contenders
from loadtests.figure import Measured, at_most, median_of, worst_of
from loadtests.servers import GATEWAY
from loadtests.streaming_client import ChatRequest, Message

GATEWAY_CLIENTS = (64, 256, 1000)
MLX_LM_CLIENTS = (64,)
ANSWER_TOKENS = 2
WITHIN_SECONDS = 900


async def measure(contenders: Contenders, rounds: int) -> Measured:
    runs = [(contenders.gateway, clients) for clients in GATEWAY_CLIENTS]
    runs += [(contenders.mlx_lm, clients) for clients in MLX_LM_CLIENTS]
    failed: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for _ in range(rounds):
        for server, clients in runs:
            name = f"{server.name}, {clients} clients"
            began = time.perf_counter()
            found = await burst(server.base_url, [_request(server.model, n) for n in range(clients)], WITHIN_SECONDS)
            seconds[name].append(time.perf_counter() - began)
            failed[name].append(clients - found[OK])
            ends[name] += found
            await contenders.quiet()
    return Measured(
        [
            worst_of(f"{name}: cut or failed", counts, at_most(0))
            if name.startswith(GATEWAY)
            else median_of(f"{name}: cut or failed", counts)
            for name, counts in failed.items()
        ]
        + [median_of(f"{name}: until the last answer, s", times) for name, times in seconds.items()],
        [f"{name}: {', '.join(f'{count} {end}' for end, count in how.items())}" for name, how in ends.items()],
    )


def _request(model: str, number: int) -> ChatRequest:
    """As short as chat templates let it be: a system message keeps them from adding a longer one."""
    return ChatRequest(model, [Message("system", "Hi"), Message("user", f"Say {number}")], ANSWER_TOKENS)
