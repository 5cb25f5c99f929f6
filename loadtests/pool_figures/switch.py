"""From the wish to evict a model, over its next load, to the first token of an answer; beside mlx-lm without a server.

The files are in the page cache: both have loaded the model before. mlx-lm also reads the tokenizer, which the gateway
keeps.
"""

import time
from collections import defaultdict
from pathlib import Path

from gateway.model_store.weight_sizes import estimate_model
from loadtests.cache_figures.bench import ask
from loadtests.figure import Measured, at_most, each, ratio
from loadtests.pool_figures.mlx_lm_load import mlx_lm_loads
from loadtests.prompts import long_story
from loadtests.servers import GATEWAY, gateway_server

MLX_LM_LOAD = "mlx_lm.load"


async def measure(folder: Path, store: Path, rounds: int) -> Measured:
    """`folder` is the model, in float32."""
    seconds: dict[str, list[float]] = defaultdict(list)
    async with gateway_server(str(folder), store) as server, mlx_lm_loads(folder, store) as loads:
        await ask(server, long_story(0), 1)
        await loads.first_token(long_story(0))
        for _ in range(rounds):
            messages = long_story(0)
            began = time.perf_counter()
            async with server.client() as client:
                (await client.post(f"/admin/models/{server.model}/evict")).raise_for_status()
            stream = await ask(server, messages, 1)
            seconds[GATEWAY].append(stream.content_times[0] - began)
            seconds[MLX_LM_LOAD].append(await loads.first_token(messages))
    return Measured(
        [*each("until the first token, s", seconds), ratio(seconds, GATEWAY, MLX_LM_LOAD, at_most(1.1))],
        [f"{estimate_model(folder, None).weight_bytes / 1e6:.0f} MB of weights"],
    )
