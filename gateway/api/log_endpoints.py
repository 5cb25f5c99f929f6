"""What the server logged. For the operator only."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Raw
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.errors import InvalidRequest
from gateway.observability.csv_text import csv_text
from gateway.observability.log_book import LogBook
from gateway.observability.log_filter import LogFilter
from gateway.observability.log_line import LEVELS
from gateway.observability.moment import moment

MOST_LINES = 100_000
USUAL_LINES = {"json": 200, "jsonl": MOST_LINES, "csv": MOST_LINES}
COLUMNS = ("time", "level", "logger", "message", "request", "model", "session")
SEND_TIMEOUT_SECONDS = 30


class LogEndpoints:
    def __init__(self, book: LogBook) -> None:
        self._book = book

    async def logs(self, request: Request) -> Response:
        """GET /admin/logs?level=&search=&request=&model=&since=&limit=: the latest lines, the oldest of them first.

        `format=jsonl` or `csv` downloads them; `follow=true` goes on with what is logged from now on, as events.
        """
        operator_only(request)
        asked = request.query_params
        form = asked.get("format", "json")
        if form not in USUAL_LINES:
            raise InvalidRequest(f"format is {form[:40]!r}, but must be json, jsonl or csv.", "format")
        wanted = _wanted(request)
        if asked.get("follow") in ("true", "1"):
            return _FollowResponse(self._book.follow(wanted, _limit(request, 0)))
        lines = await asyncio.to_thread(self._book.search, wanted, _limit(request, USUAL_LINES[form]))
        if form == "json":
            return json_response({"data": [Raw(line) for line in lines]})
        headers = {"content-disposition": f'attachment; filename="mlx-gateway-log.{form}"'}
        if form == "jsonl":
            return Response(b"".join(line + b"\n" for line in lines), 200, headers, "application/x-ndjson")
        return Response(await asyncio.to_thread(_as_csv, lines), 200, headers, "text/csv; charset=utf-8")


class _FollowResponse(EventSourceResponse):
    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        super().__init__(_events(lines), ping=15, send_timeout=SEND_TIMEOUT_SECONDS, sep="\n")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError as error:
            raise ClientDisconnect from error


async def _events(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b": listening\n\n"
    async for line in lines:
        yield b"data: " + line + b"\n\n"


def _wanted(request: Request) -> LogFilter:
    asked = request.query_params
    level = asked.get("level", "").lower()
    if level and level not in LEVELS:
        raise InvalidRequest(f"level is {level[:40]!r}, but must be one of: {', '.join(LEVELS)}.", "level")
    since = moment(asked["since"], time.time(), "since") if asked.get("since") else 0.0
    return LogFilter(level, asked.get("search", ""), asked.get("request", ""), asked.get("model", ""), since)


def _limit(request: Request, usual: int) -> int:
    text = request.query_params.get("limit", str(usual))
    if not (text.isascii() and text.isdecimal() and len(text) < 7 and int(text) <= MOST_LINES):
        raise InvalidRequest(f"limit must be a whole number up to {MOST_LINES}.", "limit")
    return int(text)


def _as_csv(lines: Sequence[bytes]) -> str:
    rows = []
    for line in lines:
        entry = msgspec.json.decode(line, type=dict[str, object])
        when = entry.pop("time", 0.0)
        time_text = datetime.fromtimestamp(when, UTC).isoformat() if isinstance(when, float | int) else ""
        fields = [entry.pop(name, "") for name in COLUMNS[1:]]
        rows.append([time_text, *fields, msgspec.json.encode(entry).decode() if entry else ""])
    return csv_text((*COLUMNS, "fields"), rows)
