"""API keys, and what was done with those that may administer."""

import asyncio

from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.operator_only import operator_only
from gateway.errors import InvalidRequest
from gateway.protocols.json_body import decode_body
from gateway.security.api_keys import ApiKeys, KeyRecord, KeySettings
from gateway.security.audit import AuditLine, AuditLog
from gateway.security.caller import Scope

MOST_AUDIT_LINES = 1000


class Limits(Struct, frozen=True):
    requests_per_minute: int
    tokens_per_minute: int
    tokens_per_day: int


class KeyObject(Struct, frozen=True):
    """`key` is there only in the answer to the request that made it."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    models: tuple[str, ...]
    limits: Limits
    priority: str
    created_at: float
    expires_at: float | None
    last_used_at: float | None
    key: str | UnsetType = UNSET


class KeyList(Struct, frozen=True):
    data: list[KeyObject]


class AuditLines(Struct, frozen=True):
    data: list[AuditLine]


class KeyEndpoints:
    def __init__(self, keys: ApiKeys, audit: AuditLog) -> None:
        self._keys = keys
        self._audit = audit

    async def create(self, request: Request) -> Response:
        """POST /admin/keys: the only answer that holds the key itself."""
        operator_only(request)
        record, key = self._keys.create(decode_body(await request.body(), KeySettings))
        headers = {"location": f"/admin/keys/{record.id}", "cache-control": "no-store"}
        return json_response(self._object(record, key), 201, headers)

    async def list_all(self, request: Request) -> Response:
        """GET /admin/keys"""
        operator_only(request)
        return json_response(KeyList([self._object(record) for record in self._keys.records]))

    async def revoke(self, request: Request) -> Response:
        """DELETE /admin/keys/{id}: from the next request on, the key is not known."""
        operator_only(request)
        return json_response(self._object(self._keys.revoke(request.path_params["key_id"])))

    async def audit(self, request: Request) -> Response:
        """GET /admin/audit?limit=: the latest acts of operators, newest first."""
        operator_only(request)
        limit = request.query_params.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= MOST_AUDIT_LINES):
            raise InvalidRequest(f"limit must be a number from 1 to {MOST_AUDIT_LINES}.", "limit")
        return json_response(AuditLines(await asyncio.to_thread(self._audit.latest, int(limit))))

    def _object(self, record: KeyRecord, key: str | UnsetType = UNSET) -> KeyObject:
        of = record.settings
        return KeyObject(
            record.id,
            of.name,
            of.scopes,
            of.models,
            Limits(of.requests_per_minute, of.tokens_per_minute, of.tokens_per_day),
            of.priority,
            record.created_at,
            of.expires_at,
            self._keys.last_used_at(record.id),
            key,
        )
