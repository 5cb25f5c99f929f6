"""What is known of crashes. For the operator only."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.errors import CrashNotKnown
from gateway.observability.crash_reports import CrashReports


class CrashEndpoints:
    def __init__(self, reports: CrashReports) -> None:
        self._reports = reports

    async def list_all(self, request: Request) -> Response:
        """GET /admin/crashes, the newest first"""
        operator_only(request)
        return json_response({"data": await asyncio.to_thread(self._reports.list_all)})

    async def get(self, request: Request) -> Response:
        """GET /admin/crashes/{name}"""
        operator_only(request)
        name = request.path_params["name"]
        report = await asyncio.to_thread(self._reports.read, name)
        if report is None:
            raise CrashNotKnown(name)
        return json_response(report)
