"""The middleware that lets requests in: by key, scope, host, origin and limits. Belongs to the event loop."""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.error_response import error_response
from gateway.config import Config
from gateway.errors import ApiKeyWrong, GatewayError, HostNotAllowed, OriginNotAllowed, ScopeMissing
from gateway.observability.security_metrics import SecurityMetrics
from gateway.security import http_guard
from gateway.security.api_keys import ApiKeys, KeyRecord
from gateway.security.audit import AuditLine, AuditLog
from gateway.security.caller import Scope as KeyScope
from gateway.security.limits import KeyLimits

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Charge:
    """What one request of a key costs: estimated at first, then told by who computed it, once or more."""

    limits: KeyLimits
    estimated: int
    metrics: SecurityMetrics
    key: str
    used: int | None = field(default=None, init=False)

    def add(self, tokens: int) -> None:
        self.used = (self.used or 0) + tokens

    def settle(self, status: int) -> None:
        """At the request's end. A refused one cost nothing; of one that was passed on, the estimate is all there is."""
        used = self.used
        if used is None:
            used = 0 if status >= 400 else self.estimated
        self.limits.correct(self.estimated, used)
        self.metrics.tokens.labels(self.key).inc(used)


class Gatekeeper:
    """Decides who is let in, and keeps what each key has left."""

    def __init__(self, config: Config, keys: ApiKeys, metrics: SecurityMetrics) -> None:
        self._server, self._security = config.server, config.security
        self._keys = keys
        self._metrics = metrics
        self._limits: dict[str, KeyLimits] = {}
        self._warned = ""
        self._names = [*self._security.allowed_hosts, self._server.host]

    def let_in(self, scope: Scope) -> Charge | None:
        """Puts the caller into the request's state. Raises what refuses the request."""
        self._follow()
        headers = scope["headers"]
        needed = http_guard.needed_scope(scope["method"], scope["path"])
        if needed is KeyScope.METRICS and self._security.metrics_open:
            needed = None
        record = self._proved(headers)
        if record is None:
            self._check_browser(headers)
            if needed and self._needs_keys:
                raise ApiKeyWrong("This path needs an API key.")
            return None
        caller = record.caller
        scope["state"]["caller"] = caller
        if needed and not caller.may(needed):
            raise ScopeMissing(needed)
        return self._charged(record, scope) if needed is KeyScope.INFERENCE else None

    def limits_of(self, record: KeyRecord) -> KeyLimits:
        return self._limits.setdefault(record.id, KeyLimits(record.settings))

    @property
    def _needs_keys(self) -> bool:
        open_anyway = http_guard.is_loopback(self._server.host) or self._server.allow_open_network
        return bool(self._keys.records) or self._security.require_keys == "always" or not open_anyway

    def _follow(self) -> None:
        wrong = self._keys.follow()
        if wrong and wrong != self._warned:
            log.error("%s", wrong)
        self._warned = wrong

    def _proved(self, headers: http_guard.Headers) -> KeyRecord | None:
        """The key's record. Raises `ApiKeyWrong` for a key that is none, as long as there are any.

        Without keys, clients may send whatever their settings make them send.
        """
        key = http_guard.credential(headers)
        if not key or not self._needs_keys:
            return None
        record = self._keys.find(key)
        if record is None:
            raise ApiKeyWrong("This API key is not known here.")
        if record.expired(time.time()):
            raise ApiKeyWrong("This API key has expired.")
        return record

    def _check_browser(self, headers: http_guard.Headers) -> None:
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if not http_guard.host_is_ours(hosts, self._names):
            raise HostNotAllowed
        if http_guard.is_foreign_page(headers, self._security.allowed_origins):
            raise OriginNotAllowed

    def _charged(self, record: KeyRecord, scope: Scope) -> Charge:
        limits, name = self.limits_of(record), record.settings.name
        charge = Charge(limits, http_guard.estimated_tokens(scope["headers"]), self._metrics, name)
        scope["state"]["rate_limits"] = limits
        limits.admit(charge.estimated, time.monotonic())
        self._metrics.requests.labels(name).inc()
        scope["state"]["charge"] = charge.add
        if self._keys.note_use(record.id):
            self._write_last_used()
        return charge

    def _write_last_used(self) -> None:
        try:
            self._keys.write_last_used()
        except OSError as error:
            log.warning("cannot write when keys were last used: %s", error.strerror)


class SecurityGuard:
    """Refuses who is not let in, tells limits, and has operators' acts written down before their answer leaves."""

    def __init__(self, app: ASGIApp, gatekeeper: Gatekeeper, audit: AuditLog, metrics: SecurityMetrics) -> None:
        self._app = app
        self._gatekeeper = gatekeeper
        self._audit = audit
        self._metrics = metrics
        self._writing = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await self._write_down(scope, status)
                message["headers"] = [*message.get("headers", []), *_limit_headers(scope)]
            await send(message)

        try:
            charge = self._gatekeeper.let_in(scope)
        except GatewayError as error:
            self._metrics.refused.labels(type(error).__name__).inc()
            await error_response(error, scope)(scope, receive, send_on)
            return
        try:
            await self._app(scope, receive, send_on)
        finally:
            if charge:
                charge.settle(status)

    async def _write_down(self, scope: Scope, status: int) -> None:
        """What only operators may do, also where another key tried; looking is no act, but for llama-swap's unload."""
        state, method = scope["state"], scope["method"]
        caller = state.get("caller")
        tried = caller is not None and status == 403
        looks = method in ("GET", "HEAD", "OPTIONS") and scope["path"] != "/unload"
        if looks or not (state.get("operator") or tried):
            return
        address = scope["client"][0] if scope.get("client") else ""
        key_id, name = (caller.key_id, caller.name) if caller else ("", "")
        line = AuditLine(time.time(), key_id, name, address, method, scope["path"][:500], status)
        try:
            async with self._writing:
                await asyncio.to_thread(self._audit.append, line)
        except OSError as error:
            log.error("cannot write the audit log (%s); key %r did %s: %d", error.strerror, name, method, status)


def _limit_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    limits: KeyLimits | None = scope["state"].get("rate_limits")
    if not limits:
        return []
    return [(name.encode(), value.encode()) for name, value in limits.headers(time.monotonic()).items()]
