"""How much was asked of which model by whom. For the operator only."""

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.errors import InvalidRequest, UsageUnavailable
from gateway.observability.csv_text import csv_text
from gateway.observability.moment import moment
from gateway.observability.usage_database import UsageDatabase
from gateway.observability.usage_query import UsageQuery, group_names, usage_rows


class UsageEndpoints:
    def __init__(self, database: UsageDatabase | None) -> None:
        self._database = database

    async def usage(self, request: Request) -> Response:
        """GET /admin/usage?since=&until=&key=&model=&client=&group_by=key,model,client,day&format=json or csv"""
        operator_only(request)
        if self._database is None:
            raise UsageUnavailable("Usage is not noted: the configuration has usage.enabled = false.")
        form = request.query_params.get("format", "json")
        if form not in ("json", "csv"):
            raise InvalidRequest(f"format is {form[:40]!r}, but must be json or csv.", "format")
        query = _query(request)
        await asyncio.to_thread(self._database.flush)
        rows = await asyncio.to_thread(usage_rows, self._database.file, query)
        if form == "csv":
            headers = {"content-disposition": 'attachment; filename="mlx-gateway-usage.csv"'}
            return Response(csv_text(query.columns, rows), 200, headers, "text/csv; charset=utf-8")
        return json_response({"data": [dict(zip(query.columns, row, strict=True)) for row in rows]})


def _query(request: Request) -> UsageQuery:
    asked, now = request.query_params, time.time()
    return UsageQuery(
        since=moment(asked["since"], now, "since") if asked.get("since") else 0.0,
        until=moment(asked["until"], now, "until") if asked.get("until") else 0.0,
        key=asked.get("key", ""),
        model=asked.get("model", ""),
        client=asked.get("client", ""),
        group_by=group_names(asked.get("group_by", "")),
    )
