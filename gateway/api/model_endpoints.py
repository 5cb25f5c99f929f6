"""Which models there are."""

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.resident_model import ResidentModel
from gateway.protocols.openai_models import ModelList, ModelObject, model_object


class ModelState(Struct, frozen=True):
    id: str
    state: str


class ModelEndpoints:
    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models"""
        return json_response(ModelList([_describe(model) for model in self._pool.models]))

    async def get_model(self, request: Request) -> Response:
        """GET /v1/models/{id}; ids may hold slashes."""
        return json_response(_describe(self._pool.find(request.path_params["model_id"])))

    async def evict(self, request: Request) -> Response:
        """POST /admin/models/{id}/evict: its memory is given up until somebody asks for it."""
        operator_only(request)
        model = self._pool.find(request.path_params["model_id"])
        await model.evict()
        return json_response(ModelState(model.model_id, model.state.value))

    async def load(self, request: Request) -> Response:
        """POST /admin/models/{id}/load: begins to load an evicted model; says how far it is."""
        operator_only(request)
        model = self._pool.find(request.path_params["model_id"])
        model.load_again()
        return json_response(ModelState(model.model_id, model.state.value))


def _describe(model: ResidentModel) -> ModelObject:
    return model_object(model.model_id, model.created, model.context_tokens, model.purpose, model.dimensions)
