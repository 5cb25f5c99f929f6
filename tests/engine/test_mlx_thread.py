"""The MLX thread and an engine on it, with the tiny model."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.config import CacheConfig, Config, EngineConfig, HardwareConfig
from gateway.engine.engine import Engine
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import ProcessMemory
from gateway.engine.token_stream import GeneratedToken, TokenRequest, TokenStream
from gateway.errors import GenerationFailed, ModelUnavailable, Overloaded, ShuttingDown
from gateway.generation.request import Sampling
from gateway.hardware.blas import REFERENCE
from gateway.observability.metrics import Metrics
from gateway.prefix_cache.prefix_caches import PrefixCaches

METRICS = Metrics().for_model("tiny")
LONG = TokenRequest([5, 6, 7], 400, Sampling(temperature=0), (1,), frozenset())
SHORT = TokenRequest([5, 6, 7], 3, Sampling(temperature=0), (1,), frozenset())


@pytest.fixture
async def thread() -> AsyncIterator[MlxThread]:
    thread = MlxThread()
    thread.start()
    yield thread
    await asyncio.to_thread(thread.stop)  # while the event loop it reports to still runs


def an_engine(thread: MlxThread, hardware: HardwareConfig, config: EngineConfig) -> Engine:
    prefixes = PrefixCaches(Config(cache=CacheConfig(disk_bytes=0)), thread.post)
    return Engine("tiny", thread, ProcessMemory(hardware), prefixes, config, METRICS)


@pytest.fixture
async def engine(thread: MlxThread, tiny_folder: Path) -> AsyncIterator[Engine]:
    engine = an_engine(thread, HardwareConfig(), EngineConfig(max_running=2, max_waiting=1))
    await engine.load(tiny_folder, b"", HardwareConfig(), REFERENCE, lambda fraction: None)
    yield engine
    engine.fail(ShuttingDown())


async def read_all(stream: TokenStream) -> list[GeneratedToken]:
    tokens: list[GeneratedToken] = []
    while arrived := await stream.read():
        tokens += arrived
    return tokens


def test_work_that_has_ended_is_followed_by_one_rest() -> None:
    """Not before, not while there is more to do, and once only however long nothing comes."""
    rested: queue.SimpleQueue[int] = queue.SimpleQueue()
    worker = CountingWorker(breaks=False)
    thread = MlxThread(lambda: rested.put(worker.steps), idle_seconds=0.01)
    thread.start()
    thread.run(lambda: None).result()
    thread.run(lambda: thread.add_worker(worker)).result()
    assert rested.get(timeout=10) == 3
    thread.run(lambda: None).result()
    thread.stop()
    assert rested.empty()


class CountingWorker:
    """Has work until it was stepped three times; may break on the second step."""

    def __init__(self, *, breaks: bool) -> None:
        self.breaks = breaks
        self.steps = 0
        self.closed_with: list[BaseException | None] = []
        self.done = threading.Event()

    @property
    def has_work(self) -> bool:
        return self.steps < 3

    @property
    def patience_seconds(self) -> float | None:
        return None

    def step(self) -> None:
        self.steps += 1
        if self.breaks and self.steps == 2:
            raise RuntimeError("broken")
        if self.steps == 3:
            self.done.set()

    def close(self, error: BaseException | None) -> None:
        self.closed_with.append(error)
        self.done.set()


def test_a_broken_worker_is_closed_and_the_others_go_on() -> None:
    thread, broken, sound = MlxThread(), CountingWorker(breaks=True), CountingWorker(breaks=False)
    thread.start()
    for worker in (broken, sound):
        thread.run(lambda worker=worker: thread.add_worker(worker)).result(timeout=10)  # type: ignore[misc]
    assert broken.done.wait(10)
    assert sound.done.wait(10)
    thread.stop()
    assert [str(error) for error in broken.closed_with] == ["broken"]
    assert sound.closed_with == [None]
    assert (broken.steps, sound.steps) == (2, 3)


async def test_commands_run_in_order_and_carry_their_exceptions(thread: MlxThread) -> None:
    order: list[int] = []
    futures = [thread.run(lambda number=number: order.append(number)) for number in range(5)]  # type: ignore[misc]
    failing = thread.run(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(timeout=10)
    assert all(future.done() for future in futures)
    assert order == [0, 1, 2, 3, 4]
    assert thread.run(lambda: threading.current_thread().name).result(timeout=10) == "mlx"


async def test_tokens_arrive_and_the_stream_ends(engine: Engine) -> None:
    stream = engine.submit(SHORT)
    assert [token.finish for token in await read_all(stream)] == [None, None, "length"]
    assert await stream.read() == []


async def test_weights_that_fill_the_budget_are_a_clear_failure(thread: MlxThread, tiny_folder: Path) -> None:
    small = HardwareConfig(memory_bytes=20 << 20)
    engine = an_engine(thread, small, EngineConfig())
    with pytest.raises(ModelUnavailable, match="memory_bytes"):
        await engine.load(tiny_folder, b"", small, REFERENCE, lambda fraction: None)


async def test_a_full_queue_refuses_and_has_room_again(engine: Engine) -> None:
    streams = [engine.submit(LONG) for _ in range(3)]
    with pytest.raises(Overloaded) as refused:
        engine.submit(SHORT)
    assert refused.value.retry_after_seconds >= 1
    streams[0].cancel()
    streams[0].cancel()
    streams.append(engine.submit(SHORT))
    with pytest.raises(Overloaded):
        engine.submit(SHORT)
    for stream in streams[1:]:
        assert await stream.read()


async def test_a_failing_step_fails_its_requests_and_the_engine_serves_on(engine: Engine, thread: MlxThread) -> None:
    stream = engine.submit(LONG)
    await stream.read()
    thread.post(lambda: _break(engine, for_good=False))
    with pytest.raises(GenerationFailed, match="out of memory, say"):
        await read_all(stream)
    assert engine.failure is None
    assert await engine.submit(SHORT).read()


async def test_an_engine_that_cannot_go_on_ends_its_requests_and_takes_no_more(
    engine: Engine, thread: MlxThread
) -> None:
    running, waiting = engine.submit(LONG), [engine.submit(LONG) for _ in range(2)][-1]
    await running.read()
    thread.post(lambda: _break(engine, for_good=True))
    for stream in (running, waiting):
        with pytest.raises(ModelUnavailable, match="cannot go on"):
            await read_all(stream)
    assert isinstance(engine.failure, ModelUnavailable)
    with pytest.raises(ModelUnavailable):
        engine.submit(SHORT)


def _break(engine: Engine, *, for_good: bool) -> None:
    """On the MLX thread: the next decode step fails, or with `for_good` what decides about steps."""
    worker = engine._slot.worker
    assert worker

    def fail(*arguments: object) -> None:
        raise RuntimeError("out of memory, say")

    if for_good:
        worker._order = fail  # type: ignore[method-assign, assignment]
    else:
        worker._batch.decoding.step = fail  # type: ignore[method-assign, assignment]
