"""Making smaller models out of those there are. For the operator only."""

from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.job_endpoints import job_object
from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.errors import InvalidRequest, ModelStoreError
from gateway.model_pool.jobs import Jobs
from gateway.model_pool.pool import ModelPool
from gateway.model_store.manifest import Optimisation
from gateway.model_store.pruning import Pruning
from gateway.model_store.quantization_recipe import Recipe, read_recipe
from gateway.model_store.store import ModelStore
from gateway.model_store.store_folders import Report
from gateway.protocols.json_body import decode_body


class QuantizeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Either `bits` or a mixed `recipe`; `id` is what the new model is to be called."""

    bits: int | None = None
    group_size: int = 64
    recipe: str | None = None
    id: Annotated[str, Meta(max_length=200)] = ""


class PruneRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`layers` is how many go; `id` is what the new model is to be called."""

    layers: Annotated[int, Meta(ge=1, le=1000)]
    id: Annotated[str, Meta(max_length=200)] = ""


class OptimisedModel(Struct, frozen=True):
    """A job's result: `model` is an id that works as a `source`."""

    model: str
    optimisation: Optimisation | None


class OptimiseEndpoints:
    def __init__(self, pool: ModelPool, store: ModelStore, jobs: Jobs) -> None:
        self._pool = pool
        self._store = store
        self._jobs = jobs

    async def quantize(self, request: Request) -> Response:
        """POST /admin/models/{id}/quantize: a job that adds a model to the store; 202, see GET /admin/jobs/{id}."""
        operator_only(request)
        asked = decode_body(await request.body(), QuantizeRequest)
        return await self._job("quantize", request, _recipe(asked), asked.id)

    async def prune(self, request: Request) -> Response:
        """POST /admin/models/{id}/prune: as `quantize`, of a model without its least important layers."""
        operator_only(request)
        asked = decode_body(await request.body(), PruneRequest)
        return await self._job("prune", request, Pruning(asked.layers), asked.id)

    async def _job(self, kind: str, request: Request, step: Recipe | Pruning, new_id: str) -> Response:
        model_id = request.path_params["model_id"]
        if new_id and not new_id.isprintable():
            raise InvalidRequest("A model's id must be printable text.", "id")
        await self._pool.discover()
        source = self._pool.find_here(model_id).options.source

        def work(report: Report) -> OptimisedModel:
            made = self._store.optimised(self._store.locate(source, report), step, report, new_id)
            return OptimisedModel(made.model_id, made.manifest.optimisation if made.manifest else None)

        return json_response(job_object(self._jobs.start(kind, model_id, work)), 202)


def _recipe(asked: QuantizeRequest) -> Recipe:
    """Raises `InvalidRequest`."""
    if (asked.bits is None) == (asked.recipe is None):
        raise InvalidRequest("Give either bits, such as 4, or a mixed recipe, such as mixed_4_6.", "bits")
    field = "bits" if asked.recipe is None else "recipe"
    try:
        return read_recipe(f"{asked.bits if asked.recipe is None else asked.recipe}:{asked.group_size}")
    except ModelStoreError as error:
        raise InvalidRequest(str(error), field) from error
