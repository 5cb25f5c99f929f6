"""Models that are loaded while another one serves, on the real thread, with tiny models."""

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import CacheConfig, Config, EngineConfig, HardwareConfig
from gateway.engine.encoders.embedder import Embedder
from gateway.engine.encoders.encoder_config import read_encoder_config
from gateway.engine.encoders.tokenizer import EncoderInput
from gateway.engine.engine import Engine, EngineReady
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.engine.token_stream import GeneratedToken, TokenRequest, TokenStream
from gateway.errors import LoadCancelled, MemoryShort, ModelFilesInvalid, ModelUnavailable, ShuttingDown
from gateway.generation.request import Sampling
from gateway.hardware.blas import REFERENCE
from gateway.model_store.weight_sizes import estimate_model
from gateway.observability.metrics import Metrics
from gateway.prefix_cache.prefix_caches import PrefixCaches

LONG = TokenRequest([5, 6, 7], 400, Sampling(temperature=0), (1,), frozenset())
SHORT = TokenRequest([5, 6, 7], 3, Sampling(temperature=0), (1,), frozenset())
TEXT = EncoderInput([1, 2, 3], [0, 0, 0], 3)


class Process:
    """What the engines of a process share."""

    def __init__(self, memory_bytes: int = 0) -> None:
        self.thread = MlxThread()
        self.thread.start()
        self.hardware = HardwareConfig(memory_bytes=memory_bytes)
        self.memory = ProcessMemory(self.hardware)
        self.prefixes = PrefixCaches(Config(cache=CacheConfig(disk_bytes=0)), self.thread.post)
        self.metrics = Metrics()
        self.engines: list[Engine | Embedder] = []

    def engine(self, name: str) -> Engine:
        metrics = self.metrics.for_model(name)
        engine = Engine(name, self.thread, self.memory, self.prefixes, EngineConfig(), metrics)
        self.engines.append(engine)
        return engine

    def embedder(self, name: str) -> Embedder:
        embedder = Embedder(name, self.thread, self.memory, EngineConfig())
        self.engines.append(embedder)
        return embedder

    async def load(self, engine: Engine, folder: Path, fractions: list[float] | None = None) -> EngineReady:
        told: list[float] = [] if fractions is None else fractions
        return await engine.load(folder, b"", self.hardware, REFERENCE, told.append)

    async def on_thread(self, function: Any) -> Any:
        return await asyncio.wrap_future(self.thread.run(function))

    async def weights_held(self, name: str) -> int:
        held: int = await self.on_thread(lambda: self.memory.ledger().held_by(f"weights of {name}"))
        return held

    async def active_bytes(self) -> int:
        def read() -> int:
            import mlx.core as mx

            gc.collect()
            return mx.get_active_memory()

        count: int = await self.on_thread(read)
        return count

    async def close(self) -> None:
        for engine in self.engines:
            engine.fail(ShuttingDown())
        await asyncio.to_thread(self.thread.stop)


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    process = Process()
    yield process
    await process.close()


async def rest_of(stream: TokenStream) -> list[GeneratedToken]:
    tokens: list[GeneratedToken] = []
    while arrived := await stream.read():
        tokens += arrived
    return tokens


async def test_a_stream_goes_on_while_another_model_loads(process: Process, tiny_folder: Path) -> None:
    first, second = process.engine("first"), process.engine("second")
    await process.load(first, tiny_folder)
    alone = await rest_of(first.submit(LONG))
    stream = first.submit(LONG)
    got = await stream.read()
    fractions: list[float] = []
    loading = asyncio.create_task(process.load(second, tiny_folder, fractions))
    await asyncio.sleep(0)  # it begins
    waiting = second.submit(SHORT)
    while not loading.done():
        got += await stream.read()
        assert not stream.complete, "the load came to no end beside a stream"
    assert len(got) > 5
    assert fractions == sorted(fractions)
    assert 0 < fractions[-1] <= 1
    assert (await loading).weight_bytes == estimate_model(tiny_folder, 4).weight_bytes
    assert len(await rest_of(waiting)) == 3
    assert [token.token for token in got + await rest_of(stream)] == [token.token for token in alone]


async def test_requests_that_came_before_the_model_are_served_or_cancelled(process: Process, tiny_folder: Path) -> None:
    engine = process.engine("tiny")
    loading = asyncio.create_task(process.load(engine, tiny_folder))
    await asyncio.sleep(0)
    served, cancelled = engine.submit(SHORT), engine.submit(LONG)
    cancelled.cancel()
    assert len(await rest_of(served)) == 3
    await loading
    assert not engine.busy
    assert await process.on_thread(lambda: engine._slot.worker.has_work) is False  # type: ignore[union-attr]


async def test_loads_come_one_after_the_other(process: Process, tiny_folder: Path, minilm_folder: Path) -> None:
    config = read_encoder_config(minilm_folder)
    assert config
    engines, embedder = [process.engine("a"), process.engine("b")], process.embedder("c")
    order: list[str] = []

    async def noted(name: str, loading: Any) -> None:
        await loading
        order.append(name)

    vectors = embedder.load(minilm_folder, config, 32, process.hardware, REFERENCE, lambda fraction: None)
    loads = [process.load(engine, tiny_folder) for engine in engines]
    await asyncio.gather(*(noted(name, load) for name, load in zip("cab", [vectors, *loads], strict=True)))
    assert order == ["c", "a", "b"]
    assert (await embedder.encode([TEXT])).shape == (1, config.dimensions)
    for engine in engines:
        assert len(await rest_of(engine.submit(SHORT))) == 3


@pytest.mark.parametrize("by", ["the method", "its task"])
async def test_a_load_that_is_cancelled_leaves_nothing(by: str, process: Process, tiny_folder: Path) -> None:
    other, engine = process.engine("other"), process.engine("tiny")
    await process.load(other, tiny_folder)
    await rest_of(other.submit(SHORT))
    before = await process.active_bytes()
    stream = other.submit(LONG)  # beside which the load takes many slices
    begun = asyncio.Event()
    loading = asyncio.create_task(_awaited(engine.load(tiny_folder, b"", process.hardware, REFERENCE, _once(begun))))
    await begun.wait()
    if by == "the method":
        await engine.cancel_load()
        with pytest.raises(LoadCancelled):
            await loading
    else:
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        await asyncio.wrap_future(process.thread.drop_cancelled())
    assert await process.weights_held("tiny") == 0
    stream.cancel()
    assert await process.active_bytes() <= before + (1 << 20)

    await process.load(engine, tiny_folder)
    assert len(await rest_of(engine.submit(SHORT))) == 3
    await engine.cancel_load()  # which has ended: nothing happens
    assert len(await rest_of(engine.submit(SHORT))) == 3


async def _awaited(loading: Any) -> Any:
    return await loading


def _once(begun: asyncio.Event) -> Any:
    """A `progress` that says when weights were read."""
    return lambda fraction: begun.set() if fraction > 0 else None


async def test_a_model_that_does_not_fit_is_refused_with_numbers(tiny_folder: Path) -> None:
    weight_bytes = estimate_model(tiny_folder, 4).weight_bytes
    process = Process(memory_bytes=2 * weight_bytes)
    first, second = process.engine("first"), process.engine("second")
    await process.load(first, tiny_folder)
    before = await process.active_bytes()
    stream = first.submit(LONG)
    await stream.read()
    with pytest.raises(MemoryShort, match=r"need 24 MiB .* budget of 49 MiB .* leave \d+ MiB") as refused:
        await process.load(second, tiny_folder)
    assert refused.value.needed_bytes == weight_bytes
    assert refused.value.available_bytes < weight_bytes
    assert await process.weights_held("second") == 0
    assert len(await rest_of(stream)) > 300
    assert await process.active_bytes() < before + weight_bytes / 2
    await first.unload()
    second.recover()
    await process.load(second, tiny_folder)
    await process.close()


async def test_a_load_waits_for_answers_under_way_to_make_room(tiny_folder: Path) -> None:
    """And begins no new ones before it has its own."""
    weight_bytes = estimate_model(tiny_folder, 4).weight_bytes
    process = Process(memory_bytes=3 * weight_bytes)
    first, second = process.engine("first"), process.engine("second")
    await process.load(first, tiny_folder)
    stream = first.submit(LONG)
    await stream.read()

    def hold_the_rest() -> None:
        ledger = process.memory.ledger()
        ledger.hold("an answer", ledger.free_bytes - weight_bytes + 1)

    await process.on_thread(hold_the_rest)
    loading = asyncio.create_task(process.load(second, tiny_folder))
    while not await process.weights_held("second"):
        assert not loading.done()
    assert await process.weights_held("second") == weight_bytes
    await stream.read()
    assert not loading.done()
    await process.on_thread(lambda: process.memory.ledger().release("an answer"))
    await loading
    stream.cancel()
    await process.close()


async def test_where_nothing_will_make_room_the_load_ends(tiny_folder: Path) -> None:
    weight_bytes = estimate_model(tiny_folder, 4).weight_bytes
    process = Process(memory_bytes=3 * weight_bytes)
    first, second = process.engine("first"), process.engine("second")
    await process.load(first, tiny_folder)
    await process.on_thread(lambda: process.memory.ledger().hold("stuck", 2 * weight_bytes))
    with pytest.raises(MemoryShort):
        await process.load(second, tiny_folder)
    assert await process.weights_held("second") == 0
    await process.close()


def cut_short(folder: Path, broken: Path) -> Path:
    """A copy of a model with half of its weights."""
    broken.mkdir()
    for file in folder.iterdir():
        whole = file.read_bytes()
        (broken / file.name).write_bytes(whole[: len(whole) // 2] if file.suffix == ".safetensors" else whole)
    return broken


async def test_a_broken_model_fails_alone(process: Process, tiny_folder: Path, tmp_path: Path) -> None:
    broken = cut_short(tiny_folder, tmp_path / "broken")
    first, second = process.engine("first"), process.engine("second")
    await process.load(first, tiny_folder)
    stream = first.submit(LONG)
    await stream.read()
    loading = asyncio.create_task(process.load(second, broken))
    await asyncio.sleep(0)
    waiting = second.submit(SHORT)
    with pytest.raises(ModelFilesInvalid, match="broken"):
        await loading
    assert await process.weights_held("second") == 0
    second.fail(ModelUnavailable("as the pool would say"))
    with pytest.raises(ModelUnavailable):
        await waiting.read()
    assert len(await rest_of(stream)) > 300

    second.recover()
    await process.load(second, tiny_folder)
    assert len(await rest_of(second.submit(SHORT))) == 3


async def test_the_end_of_the_server_ends_a_load(tiny_folder: Path) -> None:
    process = Process()
    engine = process.engine("tiny")
    loading = asyncio.create_task(process.load(engine, tiny_folder))
    await asyncio.sleep(0)
    await process.close()
    with pytest.raises(ShuttingDown):
        await loading


async def test_the_second_load_computes_nothing_to_learn_of_the_model(process: Process, tiny_folder: Path) -> None:
    engine = process.engine("tiny")
    first = await process.load(engine, tiny_folder)
    answer = await rest_of(engine.submit(SHORT))
    learned = await process.on_thread(lambda: engine._learned)
    await engine.unload()
    again = await process.load(engine, tiny_folder)
    assert (again.caches, again.weight_bytes) == (first.caches, first.weight_bytes)
    assert await process.on_thread(lambda: engine._learned) is learned
    assert [token.token for token in await rest_of(engine.submit(SHORT))] == [token.token for token in answer]
