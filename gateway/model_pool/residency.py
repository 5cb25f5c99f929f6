"""Which models are in memory. Belongs to the event loop.

A request asks for a lease of its model. If the model is not in memory, it is loaded; if there is no room, others go:
those that nobody leases at once, least recently used first. A model that is in use is drained once it had its turn:
requests that come then wait, in the same line as everybody, so that models which do not fit together alternate and
none starves. What a drained model has not answered after as long a time again is set aside, in the middle of an answer,
and goes on in the model's next turn. One model loads at a time.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence

from gateway.config import PoolConfig
from gateway.engine.mlx_thread import MlxThread
from gateway.engine.process_memory import MemoryRoom, ProcessMemory
from gateway.errors import (
    GatewayError,
    MemoryShort,
    ModelBusy,
    ModelDoesNotFit,
    ModelUnavailable,
    NoRoomForRequest,
    ShuttingDown,
)
from gateway.model_pool.lease import Lease
from gateway.model_pool.model_progress import ModelState
from gateway.model_pool.place import Place
from gateway.model_pool.residency_plan import AwaitEnds, Drain, Evict, Fits, NoRoom, Plan, plan_room
from gateway.model_pool.resident_model import EvictionReason, ResidentModel

log = logging.getLogger(__name__)

TURN_PER_LOAD = 1.0
"""A turn lasts at least as long as the model took to load, whatever the configuration says. Others are served
meanwhile, which is why a load beside them takes several times as long as alone."""

RECHECK_SECONDS = 0.5
"""How often what is waited for is looked at again."""


class Residency:
    """Grants leases, loads and evicts; `run` is the task that decides."""

    def __init__(self, thread: MlxThread, memory: ProcessMemory, config: PoolConfig, max_waiting: int) -> None:
        """At most `max_waiting` requests wait for one model."""
        self._thread = thread
        self._memory = memory
        self._config = config
        self._max_waiting = max_waiting
        self._places: dict[str, Place] = {}
        self._changed = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self._loading: ResidentModel | None = None
        self._failure: GatewayError | None = None  # of `run`: nothing is loaded any more

    # --- what requests and operators ask for ---------------------------------------------------------

    def ask(self, model: ResidentModel) -> Lease:
        """A lease to wait for. Raises `Overloaded`, or why the model cannot serve now."""
        if failure := self._failure or model.refusal:
            raise failure.with_traceback(None)
        place = self._place(model)
        return place.ask(lambda lease: self._situation(place, lease), self._max_waiting)

    def wish(self, model: ResidentModel) -> None:
        """To be loaded when its turn comes, if there is room without anybody's going."""
        self._place(model).wished = True
        self.look()

    async def load(self, model: ResidentModel) -> None:
        """Loads it, with others' going if need be, and waits until it is in memory. Raises why it cannot be."""
        model.allow_retry()
        await model.understood()
        async with self.ask(model) as lease:
            await lease.granted()

    async def evict(self, model: ResidentModel) -> None:
        """Also gives up a load that nobody waits for. Raises `ModelBusy` for a model that serves."""
        place = self._place(model)
        if place.leases or place.waiting:
            raise ModelBusy(model.model_id, "it serves requests")
        place.wished = model.wants_back = False
        if model.state is ModelState.LOADING:
            await model.cancel_load()
        elif model.state is ModelState.READY:
            await self._evict(place, "operator")
        else:
            raise ModelBusy(model.model_id, f"it is {model.state.value}")
        self.look()

    async def evict_unused(self) -> None:
        """Every model that serves nobody and is not pinned."""
        for place in list(self._places.values()):
            if not place.waiting and not place.model.options.pinned:
                await self._evict(place, "memory")
        self.look()

    @property
    def works(self) -> bool:
        """False once models can no longer be loaded."""
        return self._failure is None

    def is_wished(self, model: ResidentModel) -> bool:
        return self._place(model).wished

    def leases(self, model: ResidentModel) -> int:
        return self._place(model).leases

    def waiting(self, model: ResidentModel) -> int:
        return len(self._place(model).waiting)

    def look(self) -> None:
        """Something has changed."""
        self._changed.set()

    async def room(self) -> MemoryRoom:
        """What there is of memory, and what of it is free for models."""
        return await asyncio.wrap_future(self._thread.run(self._memory.room))

    # --- the one who decides -------------------------------------------------------------------------

    async def run(self) -> None:
        """A task: brings into memory what is wanted, and evicts what was idle for too long."""
        try:
            while True:
                wait = await self._act()
                try:
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                self._changed.clear()
        except Exception as error:
            log.exception("models can no longer be loaded or evicted")
            self.close(ModelUnavailable(f"Models can no longer be loaded: {error}. Restart the server."))
            raise

    def close(self, error: GatewayError) -> None:
        """Whoever waits is told, and whoever asks from now on."""
        self._failure = error
        for place in self._places.values():
            place.refuse(error)
        for task in self._work:
            task.cancel()

    async def _act(self) -> float | None:
        """One look at everything. Returns after how many seconds the next is due at the latest."""
        for place in self._places.values():
            place.grant()
            if place.model.failure and place.model.retry_seconds == math.inf:
                place.refuse(place.model.failure)
        draining: set[str] = set()
        now = time.monotonic()
        due = [await self._evict_idle()]
        if self._loading is None:  # else wait for what that changes
            due += [await self._feed(draining), await self._bring_next(draining)]
        for place in self._places.values():
            if place.model.model_id in draining and not place.draining:
                log.info("%s serves %d more requests before it makes room", place.model.model_id, place.leases)
                place.drains_since = now
            elif place.model.model_id not in draining:
                place.drains_since = None
            place.grant()
        return min((each for each in due if each is not None), default=None)

    async def _bring_next(self, draining: set[str]) -> float | None:
        """Loads what was asked for first; while that must wait, what fits as it is; then what is wished for."""
        able = [place for place in self._places.values() if place.model.can_load]
        if any(place.starving_bytes for place in self._places.values()):  # what went for them does not come back first
            able = [place for place in able if place.set_aside_at is None]
        wanted = [(since, place) for place in able if (since := place.wanted_since) is not None]
        asked = [place for _, place in sorted(wanted, key=lambda each: each[0])]
        wished = [place for place in able if place not in asked and (place.wished or place.model.wants_back)]
        if not asked and not wished:
            return None
        room, due = await self.room(), None
        for place in asked:
            plan = self._plan(place.model.needed_bytes, room)
            if isinstance(plan, Fits):
                self._begin_load(place)
                return due
            if isinstance(plan, NoRoom):
                place.refuse(ModelDoesNotFit(place.model.model_id, str(plan)))
            elif due is None:
                due = await self._make_room(plan, draining)
                if due == 0:  # something went: look anew
                    return due
        for place in wished if due is None else ():
            if isinstance(self._plan(place.model.needed_bytes, room), Fits):
                self._begin_load(place)
                return None
            log.info("%s stays on disk: there is no room for it beside the others", place.model.model_id)
            place.wished = place.model.wants_back = False
        return due

    async def _feed(self, draining: set[str]) -> float | None:
        """Makes room for models in memory of which no request can run, because others hold what it takes."""
        due: list[float] = []
        starving = [place for place in self._places.values() if place.starving_bytes]
        for place in starving:
            plan = self._plan(place.starving_bytes, await self.room(), beside=place)
            if isinstance(plan, NoRoom):
                self._end_starving(place, str(plan))
            elif isinstance(plan, Drain) and all(self._places[each] in starving for each in plan.model_ids):
                for each in plan.model_ids:  # of which nothing runs either: this one goes first
                    await self._set_aside(self._places[each])
                return RECHECK_SECONDS
            elif not isinstance(plan, Fits):
                due.append(await self._make_room(plan, draining))
            due.append(RECHECK_SECONDS)
        return min(due, default=None)

    def _end_starving(self, place: Place, why: str) -> None:
        place.starving_bytes = 0  # until the engine says so of another request
        place.model.end_starving(NoRoomForRequest(place.model.model_id, why))

    def _plan(self, needed_bytes: int, room: MemoryRoom, beside: Place | None = None) -> Plan:
        others = [place for place in self._places.values() if place.model.in_memory and place is not beside]
        return plan_room(needed_bytes, room, [place.as_resident for place in others])

    async def _make_room(self, plan: Evict | Drain | AwaitEnds, draining: set[str]) -> float:
        """Returns after how many seconds to look again."""
        match plan:
            case Evict(model_ids):
                for each in model_ids:
                    await self._evict(self._places[each], "memory")
                return 0
            case Drain(model_ids) | AwaitEnds(model_ids):
                return await self._drain([self._places[each] for each in model_ids], draining)

    async def _drain(self, places: Sequence[Place], draining: set[str]) -> float:
        """Those that had their turn take no more requests, and for as long again serve those they have; returns when
        the first of the others has had it, 0 if something went."""
        now, ends = time.monotonic(), [RECHECK_SECONDS]
        for place in places:
            model = place.model
            turn = max(self._config.turn_seconds, TURN_PER_LOAD * model.load_seconds)
            end = model.ready_since + turn
            if end > now:
                ends.append(end - now)
                continue
            since = now if place.drains_since is None else place.drains_since
            if now - since >= turn and place.drains_since is not None and await self._set_aside(place):
                return 0
            draining.add(model.model_id)
            if since + turn > now:
                ends.append(since + turn - now)
        return min(ends)

    async def _set_aside(self, place: Place) -> bool:
        """Evicts a model in the middle of its answers, which wait for its next turn. False if that cannot be."""
        model = place.model
        if model.options.pinned or not model.can_set_aside or model.state is not ModelState.READY:
            return False
        log.info("%s makes room; %d requests go on in its next turn", model.model_id, place.leases)
        place.set_aside_at, place.starving_bytes = time.monotonic(), 0
        await model.evict("memory", set_aside=True)
        return True

    def _begin_load(self, place: Place) -> None:
        self._loading = place.model
        task = asyncio.create_task(self._load(place))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _load(self, place: Place) -> None:
        model = place.model
        try:
            await model.load()
            place.wished, place.set_aside_at = False, None
        except MemoryShort:
            log.info("%s must wait: memory was taken meanwhile", model.model_id)
        except Exception as error:  # noqa: BLE001  (told to those who wait, and to the log by the model)
            place.refuse(error if isinstance(error, GatewayError) else model.refusal or ShuttingDown())
        finally:
            self._loading = None
            place.grant()
            self.look()

    async def _evict(self, place: Place, reason: EvictionReason) -> None:
        """Whoever asked for it meanwhile keeps it. What goes wrong is that model's failure."""
        if place.leases == 0 and place.model.state is ModelState.READY:
            await place.model.evict(reason)

    async def _evict_idle(self) -> float | None:
        """Models that nobody used for as long as they may stay; returns when the next one may be due."""
        now, due = time.monotonic(), []
        for place in list(self._places.values()):
            model, idle_seconds = place.model, place.model.options.idle_seconds
            if not idle_seconds or place.leases or place.waiting or model.options.pinned:
                continue
            if model.state is not ModelState.READY:
                continue
            left = max(model.last_used, model.ready_since) + idle_seconds - now
            if left <= 0:
                await self._evict(place, "idle")
            else:
                due.append(left)
        return min(due, default=None)

    # --- small things --------------------------------------------------------------------------------

    def _place(self, model: ResidentModel) -> Place:
        place = self._places.get(model.model_id)
        if place is None:
            place = self._places[model.model_id] = Place(model, self.look)
            model.when_starving = place.starves
        return place

    def _situation(self, place: Place, lease: Lease) -> str:
        """What a lease waits for, in words."""
        model = place.model
        waiting = [other for each in self._places.values() for other in each.waiting]
        before = f"{sum(other.asked_at < lease.asked_at for other in waiting)} requests wait before this one"
        if model.state is ModelState.LOADING:
            return f"{model.doing}, {100 * model.fraction:.0f} %"
        if place.draining:
            return f"other models have their turn, then {model.model_id} has again; {before}"
        if model.state is ModelState.READY:
            return f"waiting for one of {place.leases} requests to {model.model_id} to end; {before}"
        if self._loading:
            return f"{self._loading.model_id} is loaded first, {100 * self._loading.fraction:.0f} %; {before}"
        serving = [each.model.model_id for each in self._places.values() if each.leases]
        return f"waiting for room in memory beside {', '.join(serving) or 'others'}; {before}"
