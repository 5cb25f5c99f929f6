"""Long work in slices, on a real MLX thread and by hand."""

import gc
import threading
import weakref
from collections.abc import Generator
from concurrent.futures import CancelledError, Future

import pytest

from gateway.engine.mlx_thread import MlxThread
from gateway.engine.sliced_work import SlicedWork, Slices, at_once
from gateway.errors import ModelUnavailable, ShuttingDown


class Weights:
    """Stands for what a load holds in memory."""


class Load:
    """Slices that note what they were allowed, hold something, and are told how they end."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.allowed: list[float | None] = []
        self.told: list[float] = []
        self.ended = False
        self.held: weakref.ref[Weights] | None = None
        self.outcome: Future[str] = Future()
        self._count = count
        self._error = error

    def slices(self) -> Generator[float, float | None, str]:
        weights = Weights()
        self.held = weakref.ref(weights)
        try:
            for done in range(self._count):
                self.allowed.append((yield done / self._count))
            if self._error:
                raise self._error
            return "loaded"
        finally:
            self.ended = True

    def add_to(self, work: SlicedWork) -> None:
        work.add(self.slices(), self.outcome, self.told.append)

    @property
    def freed(self) -> bool:
        gc.collect()
        assert self.held
        return self.held() is None


def test_a_slice_a_step_and_one_work_after_the_other() -> None:
    patience = iter([0.1, None, 0.3, 0.4, 0.5])
    work = SlicedWork(lambda: next(patience))
    first, second = Load(2), Load(3)
    assert not work.has_work
    first.add_to(work)
    second.add_to(work)

    steps = 0
    while work.has_work:
        work.step()
        steps += 1

    assert steps == 5
    assert (first.allowed, second.allowed) == ([0.1, None], [0.3, 0.4, 0.5])
    assert (first.told, second.told) == ([0.5], [1 / 3, 2 / 3])
    assert (first.outcome.result(), second.outcome.result()) == ("loaded", "loaded")


@pytest.mark.parametrize("begun", [False, True])
def test_what_is_cancelled_ends_and_frees_what_it_held(begun: bool) -> None:
    """Also when its turn never came."""
    work = SlicedWork(lambda: None)
    load, other = Load(9), Load(1)
    for each in (load, other) if begun else (other, load):
        each.add_to(work)
    if begun:
        work.step()
    assert load.outcome.cancel()

    work.drop_cancelled()

    assert load.ended
    assert load.freed
    work.step()
    assert other.outcome.result() == "loaded"
    assert not work.has_work


def test_an_error_goes_to_who_waits_and_keeps_no_memory() -> None:
    work = SlicedWork(lambda: None)
    broken, other = Load(1, ValueError("a broken file")), Load(1)
    for load in (broken, other):
        load.add_to(work)
        work.step()

    error = broken.outcome.exception()
    assert str(error) == "a broken file"
    assert broken.freed
    assert other.outcome.result() == "loaded"


@pytest.mark.parametrize(("error", "expected"), [(None, ShuttingDown), (OSError("gone"), ModelUnavailable)])
def test_the_end_of_the_thread_ends_all_work(error: Exception | None, expected: type[Exception]) -> None:
    work = SlicedWork(lambda: None)
    running, waiting = Load(9), Load(9)
    running.add_to(work)
    waiting.add_to(work)
    work.step()
    work.close(error)
    for load in (running, waiting):
        assert isinstance(load.outcome.exception(), expected)
        assert load.ended
        assert load.freed


def test_work_that_fails_to_end_in_order_holds_nothing_up() -> None:
    def stubborn() -> Slices[None]:
        try:
            yield 0.0
        finally:
            raise RuntimeError("it cannot be given up")

    work, outcome, other = SlicedWork(lambda: None), Future[None](), Load(1)
    work.add(stubborn(), outcome, lambda fraction: None)
    other.add_to(work)
    outcome.cancel()
    work.step()
    assert other.outcome.result() == "loaded"


def test_at_once_does_all_of_it() -> None:
    load, told = Load(4), list[float]()
    assert at_once(load.slices(), told.append) == "loaded"
    assert told == [0, 0.25, 0.5, 0.75]
    assert load.allowed == [None] * 4


class Streaming:
    """A worker with work until it is told, that counts its steps."""

    def __init__(self, patience_seconds: float) -> None:
        self.patience_seconds: float | None = patience_seconds
        self.steps = 0
        self.has_work = True

    def step(self) -> None:
        self.steps += 1

    def close(self, error: BaseException | None) -> None:
        self.has_work = False


def test_others_step_between_slices_and_the_least_patient_counts() -> None:
    thread = MlxThread()
    hasty, patient, load = Streaming(0.125), Streaming(0.5), Load(5)
    thread.start()
    for worker in (patient, hasty):
        thread.run(lambda worker=worker: thread.add_worker(worker)).result(10)  # type: ignore[misc]
    before: list[int] = []
    future = thread.run_sliced(load.slices(), load.told.append, lambda: before.append(hasty.steps))
    assert future.result(10) == "loaded"
    steps = thread.run(lambda: hasty.steps).result(10) - before[0]
    thread.stop()
    assert load.allowed == [0.125] * 5
    assert steps >= 5


def test_a_work_may_be_cancelled_from_any_thread_at_any_time() -> None:
    thread = MlxThread()
    begun, go_on = threading.Event(), threading.Event()

    def slices() -> Slices[None]:
        yield 0.0
        begun.set()
        assert go_on.wait(10)
        yield 0.5
        raise AssertionError("nobody wants this")

    thread.start()
    future = thread.run_sliced(slices(), lambda fraction: None)
    assert begun.wait(10)
    assert future.cancel()
    go_on.set()
    thread.drop_cancelled().result(10)
    with pytest.raises(CancelledError):
        future.result(10)
    thread.stop()


def test_after_the_thread_has_ended_nothing_is_begun() -> None:
    thread = MlxThread()
    thread.start()
    thread.stop()
    with pytest.raises(RuntimeError, match="has ended"):
        thread.run_sliced(Load(1).slices(), lambda fraction: None).result(10)
