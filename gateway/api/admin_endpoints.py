"""What operators ask of models: what there is, loading, evicting, pinning, options, and everything as it happens."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress

import msgspec
from msgspec import Struct
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.event_stream import unless_disconnected
from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.config import CHANGEABLE, ModelConfig
from gateway.errors import GatewayError, InvalidRequest
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.resident_model import ResidentModel
from gateway.observability.pool_events import PoolEvents
from gateway.protocols.json_body import decode_body

SEND_TIMEOUT_SECONDS = 30


class AdminModel(Struct, frozen=True):
    """Times are in Unix seconds, 0 for never. Of weights, `predicted_bytes` are by the headers, `loaded_bytes` what
    they took when they were loaded last, `weight_bytes` what they take now."""

    id: str
    state: str
    doing: str
    fraction: float
    purpose: str | None
    pinned: bool
    leases: int
    waiting: int
    weight_bytes: int
    predicted_bytes: int
    loaded_bytes: int
    load_seconds: float
    last_used: float
    retry_seconds: float | None
    options: dict[str, object]


class MemoryUse(Struct, frozen=True):
    """`free_bytes` are what nobody holds, or holds and gives up when asked."""

    budget_bytes: int
    free_bytes: int


class AdminModels(Struct, frozen=True):
    memory: MemoryUse
    models: list[AdminModel]


class AdminEndpoints:
    def __init__(self, pool: ModelPool, events: PoolEvents) -> None:
        self._pool = pool
        self._events = events
        self._loads: set[asyncio.Task[None]] = set()

    async def models(self, request: Request) -> Response:
        """GET /admin/models"""
        operator_only(request)
        room = await self._pool.residency.room()
        models = [self._describe(model) for model in self._pool.models_here]
        return json_response(AdminModels(MemoryUse(room.budget_bytes, room.free_bytes), models))

    async def model(self, request: Request) -> Response:
        """GET /admin/models/{id}"""
        return json_response(self._describe(self._asked(request)))

    async def load(self, request: Request) -> Response:
        """POST /admin/models/{id}/load: 202 and how far it is; with ?wait=true 200 once it is in memory."""
        model = self._asked(request)
        loading = self._pool.residency.load(model)
        if request.query_params.get("wait") in ("true", "1"):
            await unless_disconnected(request, loading)
            return json_response(self._describe(model))
        task = asyncio.create_task(_told_in_state(loading))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)
        await asyncio.sleep(0)  # so that the answer shows it as wanted
        return json_response(self._describe(model), 202)

    async def evict(self, request: Request) -> Response:
        """POST /admin/models/{id}/evict: its memory is given up until somebody asks for it."""
        model = self._asked(request)
        await self._pool.residency.evict(model)
        return json_response(self._describe(model))

    async def pin(self, request: Request) -> Response:
        """POST /admin/models/{id}/pin: it is not evicted for others, and comes first after a restart."""
        return self._set(self._asked(request), {"pinned": True})

    async def unpin(self, request: Request) -> Response:
        """POST /admin/models/{id}/unpin"""
        return self._set(self._asked(request), {"pinned": False})

    async def change(self, request: Request) -> Response:
        """PATCH /admin/models/{id}: some of its options, with the names that the configuration has for them."""
        model = self._asked(request)
        wished = decode_body(await request.body(), dict[str, object])
        if other := next((name for name in wished if name not in CHANGEABLE), None):
            known = ", ".join(CHANGEABLE)
            raise InvalidRequest(f"{other!r} cannot be changed while the server runs. What can is: {known}.", other)
        return self._set(model, wished)

    async def events(self, request: Request) -> Response:
        """GET /admin/events: what happens to models from now on, as server-sent events."""
        operator_only(request)
        return EventSourceResponse(self._frames(), ping=15, send_timeout=SEND_TIMEOUT_SECONDS, sep="\n")

    async def _frames(self) -> AsyncIterator[bytes]:
        yield b": listening\n\n"
        async for event in self._events.listen():
            yield b"event: " + event.kind.encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"

    def _asked(self, request: Request) -> ResidentModel:
        operator_only(request)
        return self._pool.find_here(request.path_params["model_id"])

    def _set(self, model: ResidentModel, wished: dict[str, object]) -> Response:
        now = msgspec.to_builtins(model.options)
        if isinstance(sampling := wished.get("sampling"), dict):
            wished = {**wished, "sampling": now["sampling"] | sampling}
        try:
            options = msgspec.convert(now | wished, ModelConfig)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"These options are not valid: {error}") from error
        self._pool.change(model, options)
        return json_response(self._describe(model))

    def _describe(self, model: ResidentModel) -> AdminModel:
        residency = self._pool.residency
        retry = model.retry_seconds if model.failure else None
        options = msgspec.to_builtins(model.options)
        return AdminModel(
            id=model.model_id,
            state=model.state.value,
            doing=model.doing,
            fraction=round(model.fraction, 3),
            purpose=model.purpose.value if model.purpose else None,
            pinned=model.options.pinned,
            leases=residency.leases(model),
            waiting=residency.waiting(model),
            weight_bytes=model.weight_bytes,
            predicted_bytes=model.predicted_bytes,
            loaded_bytes=model.loaded_bytes,
            load_seconds=round(model.load_seconds, 3),
            last_used=round(time.time() - time.monotonic() + model.last_used, 3) if model.last_used else 0.0,
            retry_seconds=round(retry, 3) if retry and retry < float("inf") else None,
            options={name: options[name] for name in CHANGEABLE},
        )


async def _told_in_state(loading: Awaitable[None]) -> None:
    """Why a load fails stands in the model's state."""
    with suppress(GatewayError):
        await loading
