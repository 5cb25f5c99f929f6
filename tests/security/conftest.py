"""A server with keys, and raw sockets to it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.security.api_keys import ApiKeys, KeySettings
from gateway.security.caller import Scope
from tests.conftest import Server, running_server


@dataclass(frozen=True)
class Guarded:
    """A server of the tiny model, and its keys."""

    server: Server
    store: Path
    admin: str
    inference: str
    metrics: str

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def keys(self) -> ApiKeys:
        return ApiKeys(self.store)

    def make(self, settings: KeySettings) -> dict[str, str]:
        """The headers with a new key."""
        return bearer(self.keys.create(settings)[1])


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Guarded]:
    store = tmp_path_factory.mktemp("guarded")
    made = {scope: ApiKeys(store).create(KeySettings(scope.value, scopes=(scope,)))[1] for scope in Scope}
    with running_server(
        store,
        "--model",
        str(tiny_folder),
        SECURITY_HEADER_SECONDS="1",
        SECURITY_BODY_SECONDS="1",
        SERVER_SEND_TIMEOUT_SECONDS="1",
    ) as server:
        yield Guarded(server, store, made[Scope.ADMIN], made[Scope.INFERENCE], made[Scope.METRICS])


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    at = urlsplit(url)
    assert at.hostname
    assert at.port
    with socket.create_connection((at.hostname, at.port), timeout=20) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Until the server closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
