"""Which models there are."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.resident_model import ResidentModel
from gateway.protocols.openai_models import ModelList, ModelObject, model_object


class ModelEndpoints:
    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models"""
        return json_response(ModelList([_describe(model) for model in self._pool.models]))

    async def get_model(self, request: Request) -> Response:
        """GET /v1/models/{id}; ids may hold slashes."""
        return json_response(_describe(self._pool.find(request.path_params["model_id"])))


def _describe(model: ResidentModel) -> ModelObject:
    return model_object(model.model_id, model.created, model.context_tokens)
