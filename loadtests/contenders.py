"""Who is measured: all are up all the time with the same model folder and the same BLAS, and one at a time works."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.bare import Work
from loadtests.bare_process import Bare, bare
from loadtests.model_folder import float32_folder
from loadtests.prompts import long_story
from loadtests.servers import Server, gateway_server, mlx_lm_server
from loadtests.streaming_client import ChatRequest
from loadtests.turns import Process, all_at_once, quiet, same_blas

WARM_UP_CLIENTS = 2
WARM_UP_TOKENS = 8
WARM_UP_PROMPT_TOKENS = 200


@dataclass(frozen=True)
class Contenders:
    gateway: Server
    mlx_lm: Server
    bare: Bare
    blas: str

    @property
    def servers(self) -> tuple[Server, Server]:
        return self.gateway, self.mlx_lm

    @property
    def _processes(self) -> tuple[Process, ...]:
        return self.gateway, self.mlx_lm, self.bare

    async def quiet(self) -> None:
        """Returns when nobody works any more, not even on an answer that its client gave up."""
        await quiet(self._processes)

    async def warm_up(self) -> None:
        prompts = [long_story(WARM_UP_PROMPT_TOKENS) for _ in range(WARM_UP_CLIENTS)]
        for server in self.servers:
            requests = [ChatRequest(server.model, messages, WARM_UP_TOKENS) for messages in prompts]
            await all_at_once(server, requests, least_pieces=1)
        await self.bare.generate(Work(prompts, WARM_UP_TOKENS))


@asynccontextmanager
async def contenders(store: Path) -> AsyncIterator[Contenders]:
    """Ready and warm; `store` is the gateway's model store, which also keeps the benchmark's model; absolute."""
    folder = await float32_folder(store, store / "benchmark")
    async with (
        gateway_server(str(folder), store) as gateway,
        mlx_lm_server(folder, store) as mlx_lm,
        bare(folder, store) as without_server,
    ):
        blas = same_blas([gateway.log(), mlx_lm.log(), without_server.blas])
        all_three = Contenders(gateway, mlx_lm, without_server, blas)
        await all_three.warm_up()
        yield all_three
