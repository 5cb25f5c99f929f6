"""Which models there are, and loading and unloading them, as the clients of LM Studio, llama-swap and LiteLLM ask."""

import time

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.event_stream import unless_disconnected
from gateway.api.json_response import json_response
from gateway.api.model_access import visible_offers
from gateway.api.operator_only import operator_only
from gateway.api.warning_header import warning_headers
from gateway.model_pool.model_progress import ModelState
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.resident_model import ResidentModel
from gateway.protocols.json_body import decode_body, ignored_fields
from gateway.protocols.neighbour_models import lite_llm_list, lm_studio_keys, lm_studio_list, lm_studio_model
from gateway.serving.model_cards import model_card


class LoadRequest(Struct, frozen=True):
    model: str


class UnloadRequest(Struct, frozen=True):
    instance_id: str


class LoadedInstance(Struct, frozen=True):
    type: str
    instance_id: str
    load_time_seconds: float
    status: str = "loaded"


class RunningModel(Struct, frozen=True):
    model: str
    state: str


class RunningModels(Struct, frozen=True):
    running: list[RunningModel]


class NeighbourEndpoints:
    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    async def lm_studio_models(self, request: Request) -> Response:
        """GET /api/v0/models"""
        return json_response(lm_studio_list([model_card(*offer) for offer in visible_offers(request, self._pool)]))

    async def lm_studio_one_model(self, request: Request) -> Response:
        """GET /api/v0/models/{id}; ids may hold slashes."""
        return json_response(lm_studio_model(model_card(*self._pool.find_offer(request.path_params["model_id"]))))

    async def lm_studio_keys(self, request: Request) -> Response:
        """GET /api/v1/models"""
        return json_response(lm_studio_keys([model_card(*offer) for offer in visible_offers(request, self._pool)]))

    async def lite_llm_info(self, request: Request) -> Response:
        """GET /v1/model/info"""
        return json_response(lite_llm_list([model_card(*offer) for offer in visible_offers(request, self._pool)]))

    async def lm_studio_load(self, request: Request) -> Response:
        """POST /api/v1/models/load: waits until the model is in memory."""
        operator_only(request)
        body = await request.body()
        model = self._pool.find_here(decode_body(body, LoadRequest).model)
        started = time.perf_counter()
        await unless_disconnected(request, self._pool.residency.load(model))
        kind = "llm" if model.text else "embedding"
        loaded = LoadedInstance(kind, model.model_id, round(time.perf_counter() - started, 3))
        return json_response(loaded, headers=warning_headers(ignored_fields(body, LoadRequest)))

    async def lm_studio_unload(self, request: Request) -> Response:
        """POST /api/v1/models/unload"""
        operator_only(request)
        unload = decode_body(await request.body(), UnloadRequest)
        await self._evict(self._pool.find_here(unload.instance_id))
        return json_response(unload)

    async def llama_swap_running(self, request: Request) -> Response:
        """GET /running"""
        operator_only(request)
        running = [
            RunningModel(model.model_id, "ready" if model.state is ModelState.READY else "starting")
            for model in self._pool.models_here
            if model.in_memory
        ]
        return json_response(RunningModels(running))

    async def llama_swap_unload(self, request: Request) -> Response:
        """POST /api/models/unload/{id}, or without an id for all; also GET /unload, as llama-swap has it."""
        operator_only(request)
        named = request.path_params.get("model_id")
        for model in [self._pool.find_here(named)] if named else self._pool.models_here:
            await self._evict(model)
        return Response("OK", media_type="text/plain")

    async def _evict(self, model: ResidentModel) -> None:
        """One that is not in memory is as it was asked to be."""
        if model.in_memory:
            await self._pool.residency.evict(model)
