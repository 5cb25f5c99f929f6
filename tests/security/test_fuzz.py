"""Random requests at the guard and the admin routes: the server never fails, and nothing gets around the keys."""

import json
import random
import socket
from urllib.parse import urlsplit

import pytest

from gateway.security.api_keys import KeySettings
from tests.security.conftest import Guarded

PATHS = [
    "/",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/v1/models",
    "/models",
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/embeddings",
    "/api/tags",
    "/api/chat",
    "/api/show",
    "/api/v1/models",
    "/running",
    "/api/v0/models",
    "/admin/models",
    "/admin/keys",
    "/admin/audit",
    "/admin/jobs",
    "/admin/events",
    "/admin/downloads",
    "/admin/uploads",
    "/admin/imports",
    "/admin/cache",
    "/admin/versions",
    "/admin/upstreams",
    "/admin/models/tiny",
    "/admin/models/tiny/pin",
    "/admin/models/tiny/unpin",
    "/admin/keys/key-1",
    "/admin/",
    "/unknown",
]
TRICKS = [
    "{0}/",
    "/{0}",
    "{0}%2f",
    "{0}/..",
    "/health/live/..{0}",
    "{0};x",
    "{0}%00",
    "{0}?",
    "{0}?limit=-1",
    "{0}?key=a",
    "{0}%2e%2e",
    "//health/live{0}",
    "/.{0}",
    "{0}%ff",
    "{0}%c3%28",
    "/v1{0}",
    "http://localhost{0}",
    "{0}#a",
    "{0}?limit=99999999999999999999",
    "/%61dmin/keys",
    "/ADMIN/keys",
]
METHODS = (*("GET",) * 6, *("POST",) * 3, "DELETE", "PATCH", "PUT", "OPTIONS", "HEAD", "TRACE", "PROPFIND")
BODIES = (
    b"",
    b"{}",
    b"[]",
    b"\xff\xfe",
    b'{"name": 1}',
    b'{"name": "x", "scopes": ["root"]}',
    b'{"name": "' + b"x" * 3000 + b'"}',
    b'{"model": "tiny", "model": ["tiny"]}',
    b'{"model": "tiny", "messages": []}',
    b"[" * 3000,
    b'{"requests_per_minute": -1, "name": "a", "expires_at": 1e400}',
    b'{"model": "\\ud800"}',
)
OPEN = {"/", "/health/live", "/health/ready", "/admin/", "/admin"}
STATUS_BYTES = len("HTTP/1.1 200")
WRONG_KEYS = ("", "mlxgw-", "mlxgw-wrong", "\xff\xfe", "null", "a" * 5000, "' OR 1=1 --")


class Fuzz:
    """Requests that no key, or one without the scope admin, comes with."""

    def __init__(self, guarded: Guarded, seed: int) -> None:
        self._random = random.Random(seed)
        self._address = (urlsplit(guarded.url).hostname, urlsplit(guarded.url).port)
        limited = guarded.make(KeySettings(f"fuzz-{seed}", models=("none",)))
        self._limited = limited["authorization"].removeprefix("Bearer ")
        self.statuses: dict[int, int] = {}

    def run(self, count: int) -> None:
        for _ in range(count):
            request, path, key = self._request()
            status = self._status(request)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            assert status < 500, request
            if 200 <= status < 300 and path not in OPEN:
                assert key == self._limited, request
                assert not path.lower().startswith(("/admin", "/metrics", "/running")), request

    def _request(self) -> tuple[bytes, str, str]:
        """What is sent, the path of its target, and its key."""
        pick = self._random.choice
        path = pick(PATHS)
        target = pick(TRICKS).format(path) if self._random.random() < 0.4 else path
        method = pick(METHODS) if self._random.random() < 0.9 else pick(("G\xe4T", "", "get", "A" * 50))
        key = pick((*WRONG_KEYS, self._limited, self._limited, self._limited))
        lines = [f"{method} {target} HTTP/1.1", f"host: {pick(('localhost', '127.0.0.1', 'evil.example', '', '['))}"]
        lines += [self._key_line(key)] if key else []
        lines += self._random.sample(
            [
                "origin: http://evil.example",
                "sec-fetch-site: cross-site",
                "x-forwarded-for: 127.0.0.1",
                "x-original-url: /admin/keys",
                "x-http-method-override: GET",
                "content-type: text/plain",
                "x-priority: interactive",
                "accept-encoding: \xff",
                "transfer-encoding: chunked",
                "authorization: Bearer",
                "x-empty:",
            ],
            self._random.randrange(3),
        )
        body = pick(BODIES) if self._random.random() < 0.8 else self._random.randbytes(self._random.randrange(200))
        head = "\r\n".join([*lines, f"content-length: {len(body)}", "connection: close", "", ""])
        raw = bytearray(head.encode("latin-1") + body)
        if self._random.random() < 0.1:
            for _ in range(self._random.randrange(1, 6)):
                raw[self._random.randrange(len(raw))] = self._random.randrange(256)
            return bytes(raw), _path(bytes(raw)), self._limited if self._limited.encode() in raw else key
        return bytes(raw), _path(bytes(raw)), key

    def _key_line(self, key: str) -> str:
        return self._random.choice(
            (f"authorization: Bearer {key}", f"x-api-key: {key}", f"Authorization: bearer {key}")
        )

    def _status(self, request: bytes) -> int:
        """Of the answer; 0 if the server closed without one, as it may for bytes that are no HTTP."""
        with socket.create_connection(self._address, timeout=30) as connection:
            connection.sendall(request)
            received = b""
            try:
                while len(received) < STATUS_BYTES and (part := connection.recv(4096)):
                    received += part
            except ConnectionResetError:
                return 0
        return int(received[9:12]) if received.startswith(b"HTTP/1.1 ") else 0


def _path(raw: bytes) -> str:
    parts = raw.split(b" ", 2)
    target = parts[1].decode("latin-1") if len(parts) > 1 else ""
    return target.removeprefix("http://localhost").split("?")[0].split("#")[0]


def unharmed(guarded: Guarded) -> None:
    """The keys are those that were made, and the server still serves."""
    names = {record.settings.name for record in guarded.keys.records}
    assert names >= {"admin", "inference", "metrics"}
    assert not names & {"x", "a"}
    assert guarded.server.process.poll() is None
    assert "Traceback" not in guarded.server.log


def test_a_short_fuzz(guarded: Guarded) -> None:
    fuzz = Fuzz(guarded, seed=1)
    fuzz.run(400)
    assert {200, 401, 403} <= fuzz.statuses.keys()
    unharmed(guarded)


@pytest.mark.acceptance
def test_ten_thousand_requests(guarded: Guarded) -> None:
    fuzz = Fuzz(guarded, seed=7)
    fuzz.run(10_000)
    print(json.dumps(dict(sorted(fuzz.statuses.items()))))  # noqa: T201
    unharmed(guarded)
