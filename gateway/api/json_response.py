"""JSON answers, and errors in OpenAI's shape."""

import msgspec
from starlette.responses import Response

from gateway.errors import GatewayError
from gateway.protocols.wire_errors import error_body, error_headers, wire_status


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def error_response(error: GatewayError) -> Response:
    return json_response(error_body(error), wire_status(error).http_status, error_headers(error))
