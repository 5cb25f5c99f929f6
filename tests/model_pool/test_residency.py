"""Who is served when, with models and a memory that are only numbers: whole minutes of contention in a moment."""

import asyncio
import random
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.config import ModelConfig, PoolConfig
from gateway.engine.process_memory import MemoryRoom
from gateway.errors import GatewayError, ModelUnavailable
from gateway.model_pool.model_adapters import ModelAdapters
from gateway.model_pool.model_progress import ModelState
from gateway.model_pool.residency import Residency
from gateway.model_pool.residency_record import ResidencyRecord
from gateway.model_pool.resident_model import ResidentModel
from gateway.model_pool.served_model import EncoderModel
from gateway.observability.metrics import Metrics
from gateway.observability.pool_events import PoolEvents


class Thread:
    """Runs what it is given at once."""

    def run(self, function: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function())
        except Exception as error:  # noqa: BLE001  (handed to the caller)
            done.set_exception(error)
        return done


class Memory:
    """Weights of what is in memory, caches of running requests, and a fixed work space."""

    def __init__(self, budget: int, models: list["Model"], work: int = 0) -> None:
        self.budget, self.models, self.work, self.caches = budget, models, work, 0

    def room(self) -> MemoryRoom:
        held = sum(model.weight_bytes for model in self.models)
        return MemoryRoom(self.budget, self.budget - held - self.work - self.caches, self.caches)


class Model:
    def __init__(self, model_id: str, size: int, ready: bool = False, pinned: bool = False) -> None:
        self.model_id, self.size, self.needed_bytes = model_id, size, size
        self.options = ModelConfig(pinned=pinned)
        self.state = ModelState.READY if ready else ModelState.ON_DISK
        self.weight_bytes = size if ready else 0
        self.last_used = self.ready_since = self.load_seconds = 0.0
        self.failure = self.refusal = None
        self.retry_seconds, self.wants_back, self.fraction, self.doing = 0.0, False, 0.0, ""
        self.when_starving: Any = None
        self.ended: list[GatewayError] = []
        self.evict_error: Exception | None = None
        self.load_error: GatewayError | None = None
        self.can_set_aside = True

    @property
    def can_load(self) -> bool:
        return self.state is ModelState.ON_DISK

    @property
    def in_memory(self) -> bool:
        return self.state is ModelState.READY

    def used(self, leases: int, waiting: int) -> None:
        self.last_used = time.monotonic()

    def end_starving(self, error: GatewayError) -> None:
        self.ended.append(error)

    async def load(self) -> None:
        if self.load_error:
            raise self.load_error
        self.state, self.weight_bytes, self.ready_since = ModelState.READY, self.size, time.monotonic()

    def end_requests(self, error: GatewayError) -> None:
        self.ended.append(error)

    async def evict(self, reason: str, *, set_aside: bool = False) -> None:
        if self.evict_error:
            raise self.evict_error
        self.state, self.weight_bytes = ModelState.ON_DISK, 0


def residency(memory: Memory, max_waiting: int = 8) -> Any:
    thread: Any = Thread()
    numbers: Any = memory
    return Residency(thread, numbers, PoolConfig(turn_seconds=0.0), max_waiting)


async def test_who_needs_what_running_requests_hold_gets_its_turn() -> None:
    b, c = Model("b", 40, ready=True), Model("c", 40)
    memory = Memory(100, [b, c])
    pool = residency(memory)
    deciding = asyncio.create_task(pool.run())
    running = [pool.ask(b)]
    memory.caches = 30  # what b's requests hold; they come and go without end
    waits = pool.ask(c)
    end = time.monotonic() + 3
    while time.monotonic() < end and not waits.is_granted:
        new = pool.ask(b)  # before the earlier one ends, as with several clients
        await asyncio.sleep(0.02)
        if new.is_granted:
            running.append(new)
            running.pop(0).give_back()
        elif running:
            running.pop(0).give_back()
        memory.caches = 30 if running else 0
    deciding.cancel()
    assert waits.is_granted


class SteppingThread:
    """As the MLX thread: commands are run between two steps of the models."""

    def __init__(self) -> None:
        self.commands: list[tuple[Any, Future[Any]]] = []

    def run(self, function: Any) -> Future[Any]:
        done: Future[Any] = Future()
        self.commands.append((function, done))
        return done

    async def steps(self, starving: Any) -> None:
        while True:
            commands, self.commands = self.commands, []
            for function, done in commands:
                done.set_result(function())
            await asyncio.sleep(0.0005)
            starving()  # a's step, reported
            await asyncio.sleep(0.02)  # b's


async def test_drain_for_a_starving_model_lasts() -> None:
    """Eight clients of b ask again as soon as they were served, for requests of 0.2 to 0.6 s."""
    a, b = Model("a", 40, ready=True), Model("b", 40, ready=True)
    thread = SteppingThread()
    steps, memory = cast(Any, thread), cast(Any, Memory(100, [a, b]))
    pool: Any = Residency(steps, memory, PoolConfig(turn_seconds=0.0), 64)
    tasks = [asyncio.create_task(pool.run())]
    held = pool.ask(a)
    pool.ask(b).give_back()
    tasks.append(asyncio.create_task(thread.steps(lambda: a.when_starving(50))))
    served = 0

    async def client() -> None:
        nonlocal served
        while True:
            async with pool.ask(b) as lease:
                await lease.granted()
                await asyncio.sleep(random.uniform(0.2, 0.6))
                served += 1
            await asyncio.sleep(random.uniform(0, 0.003))

    tasks += [asyncio.create_task(client()) for _ in range(8)]
    end = time.monotonic() + 5
    while time.monotonic() < end and b.state is ModelState.READY:  # noqa: ASYNC110  (no event to wait for)
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    assert b.state is not ModelState.READY, f"a starved for 5 s, in which b served {served} requests"
    del held


async def test_of_two_starving_models_one_goes_on_and_the_other_waits_for_its_turn() -> None:
    a, b = Model("a", 40, ready=True), Model("b", 40, ready=True)
    pool = residency(Memory(100, [a, b]))
    deciding = asyncio.create_task(pool.run())
    held = pool.ask(a), pool.ask(b)
    a.when_starving(50)
    b.when_starving(50)
    async with asyncio.timeout(3):
        while a.in_memory and b.in_memory:  # noqa: ASYNC110  (no event to wait for)
            await asyncio.sleep(0.01)
    stays, went = (held[0], held[1]) if a.in_memory else (held[1], held[0])
    (a if a.in_memory else b).when_starving(0)  # it has room now, and answers
    stays.give_back()
    async with asyncio.timeout(3):
        while not (b if went is held[1] else a).in_memory:  # noqa: ASYNC110  (no event to wait for)
            await asyncio.sleep(0.01)
    deciding.cancel()
    assert a.ended == b.ended == []


async def test_one_long_answer_does_not_keep_the_others_waiting() -> None:
    """It is set aside after as long a time as a turn, and has the model back after the others' turn."""
    a, b = Model("a", 60, ready=True), Model("b", 60)
    thread: Any = Thread()
    pool: Any = Residency(thread, cast(Any, Memory(100, [a, b])), PoolConfig(turn_seconds=0.1), 8)
    deciding = asyncio.create_task(pool.run())
    held = pool.ask(a)  # never ends
    a.ready_since = began = time.monotonic()
    waits = pool.ask(b)
    await asyncio.wait_for(waits.granted(), 3)
    assert time.monotonic() - began >= 0.2  # its turn, and as long again
    assert not a.in_memory
    waits.give_back()
    async with asyncio.timeout(3):
        while not a.in_memory:  # noqa: ASYNC110  (no event to wait for)
            await asyncio.sleep(0.01)
    deciding.cancel()
    assert held.is_granted
    assert a.ended == []


async def test_what_was_set_aside_for_a_model_that_fails_is_told() -> None:
    a, b = Model("a", 60, ready=True), Model("b", 60)
    thread: Any = Thread()
    pool: Any = Residency(thread, cast(Any, Memory(100, [a, b])), PoolConfig(turn_seconds=0.0), 8)
    deciding = asyncio.create_task(pool.run())
    held, waits = pool.ask(a), pool.ask(b)
    await asyncio.wait_for(waits.granted(), 3)
    a.load_error = ModelUnavailable("broken by now")
    waits.give_back()
    async with asyncio.timeout(3):
        while not a.ended:  # noqa: ASYNC110  (no event to wait for)
            await asyncio.sleep(0.01)
    deciding.cancel()
    assert a.ended == [a.load_error]
    del held


async def test_pinned_models_and_encoders_are_not_set_aside() -> None:
    a, b = Model("a", 60, ready=True), Model("b", 60)
    a.can_set_aside = False
    pool = residency(Memory(100, [a, b]))
    deciding = asyncio.create_task(pool.run())
    held, waits = pool.ask(a), pool.ask(b)
    for _ in range(5):
        pool.look()
        await asyncio.sleep(0.01)
    assert a.in_memory
    held.give_back()
    await asyncio.wait_for(waits.granted(), 3)
    deciding.cancel()


async def test_no_queue_is_no_refusal_of_a_model_that_is_free() -> None:
    a = Model("a", 40, ready=True)
    assert residency(Memory(100, [a]), max_waiting=0).ask(a).is_granted


async def test_who_asks_after_the_task_died_is_told() -> None:
    a, b, c = Model("a", 60, ready=True), Model("b", 60), Model("c", 60)
    a.evict_error = ValueError("a defect")
    pool = residency(Memory(100, [a, b, c]))
    pool.ask(a).give_back()
    deciding = asyncio.create_task(pool.run())
    with pytest.raises(GatewayError):
        await asyncio.wait_for(pool.ask(b).granted(), 2)
    assert deciding.done()
    with pytest.raises(GatewayError):
        await asyncio.wait_for(pool.ask(c).granted(), 2)


class FakeEngine:
    def __init__(self) -> None:
        self.failure: GatewayError | None = None
        self.broken = asyncio.Event()

    async def load(self, *_: Any) -> Any:
        return SimpleNamespace(backend="none", weight_bytes=1, caches="")

    async def unload(self) -> None: ...

    async def broke_down(self) -> None:
        await self.broken.wait()

    def recover(self) -> None:
        self.failure = None
        self.broken.clear()


async def test_a_breakdown_counts_once_however_often_the_model_was_loaded() -> None:
    engine: Any = FakeEngine()
    workshop: Any = SimpleNamespace(
        config=SimpleNamespace(hardware=None, engine=SimpleNamespace(restart=True)), blas=None
    )
    metrics = Metrics()
    model = ResidentModel(
        "m",
        ModelConfig(),
        ModelConfig(),
        ModelAdapters("m", ()),
        workshop,
        metrics,
        PoolEvents(),
        lambda: None,
    )
    config: Any = SimpleNamespace(dimensions=1, cross_encoder=False)
    serving = EncoderModel(cast(Any, None), config, 8, engine, metrics.for_model("m"))
    model._prepared = cast(Any, SimpleNamespace)(
        serving=serving, folder=None, fingerprint=b"", needed_bytes=1, size=SimpleNamespace(weight_bytes=1)
    )
    for _ in range(6):
        await model.load()
        await asyncio.sleep(0)
        await model.evict("memory")
    await model.load()
    await asyncio.sleep(0)
    engine.failure = ModelUnavailable("broke")
    engine.broken.set()
    await asyncio.sleep(0.01)
    assert model.retry_seconds == 0, model.retry_seconds  # the first failure is tried again at once


async def test_a_server_killed_while_models_come_back_brings_them_back_the_next_time(tmp_path: Any) -> None:
    def model(model_id: str, state: ModelState) -> Any:
        return SimpleNamespace(
            model_id=model_id,
            state=state,
            last_used=0.0,
            loaded_bytes=1,
            load_seconds=1.0,
            changed_options={},
            wants_back=False,
        )

    record = ResidencyRecord(tmp_path)
    record.note([(model("a", ModelState.READY), False), (model("b", ModelState.READY), False)])  # the first run, killed
    again = ResidencyRecord(tmp_path)  # the second: files found, the weights of a on their way, killed
    again.note([(model("a", ModelState.LOCATING), True), (model("b", ModelState.LOCATING), True)])
    again.note([(model("a", ModelState.ON_DISK), True), (model("b", ModelState.ON_DISK), True)])
    again.note([(model("a", ModelState.LOADING), True), (model("b", ModelState.ON_DISK), True)])
    assert [entry.resident for entry in ResidencyRecord(tmp_path).most_wanted_first()] == [True, True]
