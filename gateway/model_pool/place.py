"""One model's line: who holds it, who waits for it, and what stands in the way. Belongs to the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.errors import GatewayError, Overloaded
from gateway.model_pool.lease import Lease
from gateway.model_pool.model_progress import ModelState
from gateway.model_pool.residency_plan import Resident
from gateway.model_pool.resident_model import ResidentModel

RETRY_AFTER_SECONDS = 5
"""Told to clients when too many wait."""

STARVING_SECONDS = 0.05
"""Until it is looked after that a model can run nothing."""


@dataclass(slots=True, eq=False)
class Place:
    """`changed` is called when something has that others may wait for.

    A `draining` model takes no more requests until it has made room, `drains_since` then. One whose requests were
    `set_aside_at` that time wants it back for them. `starving_bytes` must be free, and are not, for a
    request to it to run. A `wished` one is to be loaded without anybody's waiting, if there is room.
    """

    model: ResidentModel
    changed: Callable[[], None]
    leases: int = 0
    waiting: deque[Lease] = field(default_factory=deque)
    drains_since: float | None = None
    set_aside_at: float | None = None
    starving_bytes: int = 0
    wished: bool = False

    @property
    def draining(self) -> bool:
        return self.drains_since is not None

    @property
    def wanted_since(self) -> float | None:
        """When the first of those asked that cannot be served without its being loaded."""
        since = [self.waiting[0].asked_at] if self.waiting else []
        if self.leases and self.set_aside_at is not None:
            since.append(self.set_aside_at)
        return min(since, default=None)

    @property
    def as_resident(self) -> Resident:
        model = self.model
        return Resident(
            model.model_id,
            model.weight_bytes or model.needed_bytes,
            self.leases,
            model.options.pinned,
            model.last_used,
            model.ready_since,
        )

    def ask(self, situation: Callable[[Lease], str], most_waiting: int) -> Lease:
        """A lease, which may have to be waited for. Raises `Overloaded` if too many wait."""
        lease = Lease(situation, self._given_back)
        self.waiting.append(lease)
        self.grant()
        if not lease.is_granted:
            if len(self.waiting) > most_waiting:
                self.waiting.pop()
                raise Overloaded(len(self.waiting), most_waiting, RETRY_AFTER_SECONDS)
            self._tell()
            self.changed()
        return lease

    def grant(self) -> None:
        """Gives the model to those who wait, as many as may have it."""
        limit = self.model.options.max_concurrent
        while self.waiting and self.model.state is ModelState.READY and not self.draining:
            if limit and self.leases >= limit:
                return
            self.leases += 1
            self.waiting.popleft().grant()
            self._tell()

    def refuse(self, error: GatewayError) -> None:
        """Tells all who wait why they wait in vain, also in the middle of their answers."""
        while self.waiting:
            self.waiting.popleft().refuse(error)
        if self.set_aside_at is not None:
            self.set_aside_at = None
            self.model.end_requests(error)
        self._tell()

    def starves(self, wanted_bytes: int) -> None:
        """What the engine says when that changes; 0 when a request has found room."""
        self.starving_bytes = wanted_bytes
        asyncio.get_running_loop().call_later(STARVING_SECONDS, self.changed)

    def _given_back(self, lease: Lease) -> None:
        if lease.is_granted:
            self.leases -= 1
            self.grant()
        elif lease in self.waiting:
            self.waiting.remove(lease)
        self._tell()
        self.changed()

    def _tell(self) -> None:
        self.model.used(self.leases, len(self.waiting))
