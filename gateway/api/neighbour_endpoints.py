"""Which models there are, as the clients of LM Studio and LiteLLM ask."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.model_pool.pool import ModelPool
from gateway.protocols.neighbour_models import lite_llm_list, lm_studio_keys, lm_studio_list, lm_studio_model
from gateway.serving.model_cards import model_card


class NeighbourEndpoints:
    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    async def lm_studio_models(self, request: Request) -> Response:
        """GET /api/v0/models"""
        return json_response(lm_studio_list([model_card(model) for model in self._pool.models]))

    async def lm_studio_one_model(self, request: Request) -> Response:
        """GET /api/v0/models/{id}; ids may hold slashes."""
        return json_response(lm_studio_model(model_card(self._pool.find(request.path_params["model_id"]))))

    async def lm_studio_keys(self, request: Request) -> Response:
        """GET /api/v1/models"""
        return json_response(lm_studio_keys([model_card(model) for model in self._pool.models]))

    async def lite_llm_info(self, request: Request) -> Response:
        """GET /v1/model/info"""
        return json_response(lite_llm_list([model_card(model) for model in self._pool.models]))
