"""Which models there are."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.model_access import visible_offers
from gateway.generation.adapter import adapter_id
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.resident_model import ResidentModel
from gateway.model_pool.upstream_model import UpstreamModel
from gateway.protocols.openai_models import ModelList, ModelObject, model_object


class ModelEndpoints:
    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models"""
        await self._pool.discover()
        return json_response(ModelList([_describe(*offer) for offer in visible_offers(request, self._pool)]))

    async def get_model(self, request: Request) -> Response:
        """GET /v1/models/{id}; ids may hold slashes."""
        return json_response(_describe(*self._pool.find_offer(request.path_params["model_id"])))


def _describe(model: ResidentModel | UpstreamModel, adapter: str) -> ModelObject:
    return model_object(
        adapter_id(model.model_id, adapter),
        model.created,
        model.context_tokens,
        model.purpose,
        model.dimensions,
        parent=model.model_id if adapter else None,
    )
