"""What is being generated, and ending it. For the operator only."""

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.serving.running_requests import RunningRequest, RunningRequests


class RequestObject(Struct, frozen=True, rename={"priority": "class"}):
    """`client` is the session that shares fairly with others."""

    id: str
    model: str
    state: str
    priority: str
    key: str
    client: str
    prompt_tokens: int
    cached_tokens: int
    prefilled_tokens: int
    generated_tokens: int
    seconds: float


class RequestList(Struct, frozen=True):
    data: list[RequestObject]


class RequestEndpoints:
    def __init__(self, running: RunningRequests) -> None:
        self._running = running

    async def list_all(self, request: Request) -> Response:
        """GET /admin/requests, the oldest first"""
        operator_only(request)
        return json_response(RequestList([_describe(running) for running in self._running.all]))

    async def cancel(self, request: Request) -> Response:
        """POST /admin/requests/{id}/cancel: its client gets an error that says so; 202."""
        operator_only(request)
        request_id = request.path_params["request_id"]
        self._running.cancel(request_id)
        return json_response({"id": request_id, "cancelled": True}, 202)


def _describe(running: RunningRequest) -> RequestObject:
    return RequestObject(
        running.request_id,
        running.model,
        running.state,
        running.priority.name.lower() if running.priority is not None else "",
        "",
        running.session,
        running.prompt_tokens,
        running.cached_tokens,
        running.prefilled_tokens,
        running.generated_tokens,
        round(running.seconds, 3),
    )
