"""What the prefix cache holds, emptying it, and why a request took no more of it. For the operator only."""

import asyncio

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.engine.mlx_thread import MlxThread
from gateway.errors import InvalidRequest, RequestNotKnown
from gateway.prefix_cache.prefix_caches import PrefixCaches
from gateway.serving.reuse_log import ReuseLog


class Cleared(Struct, frozen=True):
    """Bytes that were given up in memory; files on disk are removed soon after."""

    ram_bytes: int


class ReuseExplanation(Struct, frozen=True):
    """`before` is what the prompt and the cache have in common last, then they go on differently."""

    request_id: str
    model: str
    prompt_tokens: int
    reused_tokens: int
    from_memory: int
    from_disk: int
    from_another_request: int
    matched_tokens: int
    cause: str
    explanation: str
    before: str
    prompt: str
    cached: str


class CacheEndpoints:
    def __init__(self, thread: MlxThread, caches: PrefixCaches, reuse_log: ReuseLog) -> None:
        self._thread = thread
        self._caches = caches
        self._reuse_log = reuse_log

    async def describe(self, request: Request) -> Response:
        """GET /admin/cache"""
        operator_only(request)
        return json_response(await asyncio.wrap_future(self._thread.run(self._caches.describe)))

    async def clear(self, request: Request) -> Response:
        """DELETE /admin/cache, or of one model with ?model="""
        operator_only(request)
        model = request.query_params.get("model")

        def clear() -> Cleared:
            known = self._caches.models
            if model is not None and model not in known:
                raise InvalidRequest(f"No cache of {model!r} is open. Open are: {', '.join(known) or 'none'}.", "model")
            return Cleared(self._caches.clear(model))

        return json_response(await asyncio.wrap_future(self._thread.run(clear)))

    async def explain(self, request: Request) -> Response:
        """GET /admin/cache/explain/{request id}: why no more of this request's prompt was reused."""
        operator_only(request)
        request_id = request.path_params["request_id"]
        found = self._reuse_log.find(request_id)
        if found is None:
            raise RequestNotKnown(request_id)
        reuse, explanation = found.reuse, found.explanation
        return json_response(
            ReuseExplanation(
                request_id,
                found.model,
                reuse.prompt_tokens,
                reuse.tokens,
                reuse.ram,
                reuse.disk,
                reuse.shared,
                reuse.matched,
                explanation.cause.value,
                explanation.sentence,
                found.before,
                found.prompt,
                found.cached,
            )
        )
