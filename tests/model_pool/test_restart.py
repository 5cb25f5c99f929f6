"""A model whose engine breaks down, in this process, with the real thread and a tiny model."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config import CacheConfig, Config, EngineConfig, ModelConfig, PoolConfig, StoreConfig
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.engine.token_stream import GeneratedToken, TokenRequest
from gateway.errors import GatewayError, ModelUnavailable
from gateway.generation.request import Sampling
from gateway.hardware.blas import REFERENCE
from gateway.model_pool import retry
from gateway.model_pool.model_progress import ModelState
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.preparation import Workshop
from gateway.model_store.store import ModelStore
from gateway.observability.metrics import Metrics
from gateway.observability.pool_events import PoolEvents
from gateway.prefix_cache.prefix_caches import PrefixCaches
from tests.api.test_disconnect import until

REQUEST = TokenRequest([5, 6, 7], 200, Sampling(temperature=0), (1,), frozenset())


class Setting:
    """A pool of one model that is loading."""

    def __init__(self, folder: Path, store: Path, *, restart: bool) -> None:
        config = Config(
            model=ModelConfig(source=str(folder)),
            engine=EngineConfig(restart=restart),
            cache=CacheConfig(disk_bytes=0),
            pool=PoolConfig(restore=False),
            store=StoreConfig(directory=str(store)),
        )
        self.thread = MlxThread()
        self.thread.start()
        self.metrics = Metrics()
        prefixes = PrefixCaches(config, self.thread.post)
        memory = ProcessMemory(config.hardware)
        workshop = Workshop(config, ModelStore(store), self.thread, memory, prefixes, REFERENCE)
        self.pool = ModelPool(config, workshop, self.metrics, PoolEvents())
        self.pool.start()
        self.model: Any = self.pool.find("tiny")

    async def until(self, state: ModelState) -> None:
        async def reached() -> bool:
            return bool(self.model.state is state)

        await until(reached)

    async def close(self) -> None:
        self.pool.shut_down()
        await asyncio.to_thread(self.thread.stop)

    def break_engine(self) -> None:
        """What decides about steps has a defect: the engine cannot go on."""

        def fail(*arguments: object) -> None:
            raise RuntimeError("a defect")

        def on_thread() -> None:
            self.model.text.engine._slot.worker._order = fail

        self.thread.post(on_thread)


async def tokens(setting: Setting) -> list[GeneratedToken]:
    text = await setting.pool.text_model("tiny")
    async with setting.pool.lease("tiny") as lease:
        await lease.granted()
        stream = text.engine.submit(REQUEST)
        arrived: list[GeneratedToken] = []
        while more := await stream.read():
            arrived += more
        return arrived


@pytest.fixture
async def settings(tiny_folder: Path, tmp_path: Path) -> AsyncIterator[Any]:
    made: list[Setting] = []

    def make(*, restart: bool) -> Setting:
        made.append(Setting(tiny_folder, tmp_path, restart=restart))
        return made[-1]

    yield make
    for setting in made:
        await setting.close()


async def test_a_broken_engine_ends_its_requests_and_is_built_again(settings: Any) -> None:
    setting = settings(restart=True)
    before = await tokens(setting)
    running = asyncio.create_task(tokens(setting))
    await asyncio.sleep(0)
    setting.break_engine()
    with pytest.raises(ModelUnavailable, match="cannot go on: a defect"):
        await running
    await setting.until(ModelState.READY)
    assert await tokens(setting) == before
    assert b'mlx_gateway_engine_restarts_total{model_name="tiny"} 1.0' in setting.metrics.render()


async def test_requests_that_come_while_it_is_built_again_wait_for_it(settings: Any) -> None:
    setting = settings(restart=True)
    before = await tokens(setting)
    setting.break_engine()
    running = asyncio.create_task(tokens(setting))
    with pytest.raises(ModelUnavailable):
        await running
    await setting.until(ModelState.LOADING)
    assert await tokens(setting) == before


async def test_without_restart_it_stays_closed(settings: Any) -> None:
    setting = settings(restart=False)
    await tokens(setting)
    setting.break_engine()
    with pytest.raises(ModelUnavailable):
        await tokens(setting)
    await setting.until(ModelState.FAILED)
    with pytest.raises(GatewayError):
        await tokens(setting)


async def test_building_again_is_tried_until_it_works(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are gone for a while, say."""
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 0.01)
    setting = settings(restart=True)
    before = await tokens(setting)
    load, attempts = setting.model._loading, 0

    def failing_at_first() -> Any:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError("the files are gone")
        return load()

    monkeypatch.setattr(setting.model, "_loading", failing_at_first)
    setting.break_engine()
    with pytest.raises(ModelUnavailable):
        await tokens(setting)
    await setting.until(ModelState.READY)
    assert attempts == 3
    assert await tokens(setting) == before


async def test_an_unforeseen_failure_is_told_once_with_when_it_is_tried_again(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = settings(restart=True)
    await tokens(setting)
    await setting.pool.residency.evict(setting.model)

    def failing() -> Any:
        raise OSError("the files are gone")

    monkeypatch.setattr(setting.model, "_loading", failing)
    with pytest.raises(ModelUnavailable) as refused:
        await tokens(setting)
    assert str(refused.value) == "tiny could not be loaded: the files are gone. It is tried again in 1 s."


async def test_a_load_that_fails_is_not_tried_again_at_once(settings: Any) -> None:
    """Its files are gone for a while; who asks meanwhile is told, and an operator can have it tried sooner."""
    setting = settings(restart=True)
    before = await tokens(setting)
    await setting.pool.residency.evict(setting.model)
    prepared = setting.model._prepared
    setting.model._prepared = replace(prepared, folder=Path("/nowhere"))
    for _ in range(2):
        with pytest.raises(GatewayError, match="nowhere"):
            await tokens(setting)
        assert setting.model.state is ModelState.FAILED
        setting.model._prepared = prepared
    await setting.pool.residency.load(setting.model)
    assert await tokens(setting) == before
