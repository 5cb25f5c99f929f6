"""Models that a key's allow-list leaves out do not exist for it."""

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import ModelNotFound
from gateway.generation.adapter import adapter_id
from gateway.model_pool.pool import ModelPool
from gateway.model_pool.resident_model import ResidentModel
from gateway.model_pool.upstream_model import UpstreamModel
from gateway.security.caller import Caller

Endpoint = Callable[[Request], Awaitable[Response]]
Offer = tuple[ResidentModel | UpstreamModel, str]

LATEST = ":latest"
"""What Ollama's clients put behind a model's name."""


class NamedModels(msgspec.Struct, frozen=True):
    """The fields by which bodies name a model."""

    model: object = None
    name: object = None
    instance_id: object = None


def visible_offers(request: Request, pool: ModelPool) -> list[Offer]:
    """The models that the caller may know of."""
    caller: Caller | None = getattr(request.state, "caller", None)
    return [offer for offer in pool.offers if not caller or caller.may_use(_id(offer))]


def only_allowed(endpoint: Endpoint, pool: ModelPool) -> Endpoint:
    """`endpoint` for requests whose model the caller may use; for others it answers that there is no such model."""

    async def checked(request: Request) -> Response:
        caller: Caller | None = getattr(request.state, "caller", None)
        if caller and caller.models:
            for name in await _names(request):
                if not caller.may_use(name, *_real_names(name, pool)):
                    raise ModelNotFound(name, sorted(_id(offer) for offer in visible_offers(request, pool)))
        return await endpoint(request)

    return checked


async def _names(request: Request) -> list[str]:
    named = [request.path_params["model_id"]] if "model_id" in request.path_params else []
    try:
        body = msgspec.json.decode(await request.body() or b"{}", type=NamedModels)
    except (msgspec.DecodeError, UnicodeDecodeError):  # the endpoint words it better
        return named
    return named + [name for name in (body.model, body.name, body.instance_id) if isinstance(name, str)]


def _real_names(name: str, pool: ModelPool) -> Sequence[str]:
    """Of what an alias stands for."""
    for known in (name, name.removesuffix(LATEST)):
        try:
            return [known, _id(pool.find_offer(known))]
        except ModelNotFound:
            continue
    return []


def _id(offer: Offer) -> str:
    model, adapter = offer
    return adapter_id(model.model_id, adapter)
