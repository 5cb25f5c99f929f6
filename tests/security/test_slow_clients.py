"""Clients that are slow, or send too much, or take nothing: each is freed in time while a stream goes on."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.security.conftest import Guarded, bearer, connected, read_all

RUNNING = "vllm:num_requests_running{"
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture
def stream(guarded: Guarded) -> Iterator[Iterator[str]]:
    """A running answer, which must still be running when the test is over."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Go on"}], "stream": True, "max_tokens": 450}
    with (
        httpx.Client(base_url=guarded.url, timeout=30, headers=bearer(guarded.inference)) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        lines = response.iter_lines()
        assert next(lines)
        yield lines
        assert "data: [DONE]" in list(lines)


def seconds_until_closed(connection: socket.socket) -> float:
    started = time.monotonic()
    read_all(connection)
    return time.monotonic() - started


@pytest.mark.parametrize("sent", [b"", b"GET / HT", HEAD.encode()])
def test_headers_that_do_not_come(guarded: Guarded, stream: Iterator[str], sent: bytes) -> None:
    with connected(guarded.url) as connection:
        connection.sendall(sent)
        assert 0.5 < seconds_until_closed(connection) < 10


def test_headers_that_drip(guarded: Guarded, stream: Iterator[str]) -> None:
    """Each byte is a sign of life, and yet the time is up."""
    with connected(guarded.url) as connection:
        connection.settimeout(0.1)
        connection.sendall(b"GET / HTTP/1.1\r\nx-slow: ")
        started, closed = time.monotonic(), False
        while not closed and time.monotonic() < started + 20:
            try:
                connection.sendall(b"x")
                closed = not connection.recv(1)
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
        assert closed


def test_headers_without_end(guarded: Guarded, stream: Iterator[str]) -> None:
    with connected(guarded.url) as connection:
        connection.sendall(HEAD.encode() + b"x-long: " + b"x" * 40_000)
        assert read_all(connection).startswith(b"HTTP/1.1 431 ")


def test_headers_over_the_limit_that_come_whole(guarded: Guarded) -> None:
    with connected(guarded.url) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"x" * 40_000 + b"\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 431 ")


def test_a_body_that_does_not_come(guarded: Guarded, stream: Iterator[str]) -> None:
    with connected(guarded.url) as connection:
        key = f"authorization: Bearer {guarded.inference}\r\n"
        connection.sendall((HEAD + key + "content-length: 100\r\n\r\n{").encode())
        assert 0.5 < seconds_until_closed(connection) < 10


def test_a_kept_connection_does_not_wait_for_ever_for_line_breaks(guarded: Guarded) -> None:
    with connected(guarded.url) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        assert seconds_until_closed(connection) < 10


def test_many_requests_on_one_connection_are_not_cut(guarded: Guarded) -> None:
    with httpx.Client(base_url=guarded.url, headers=bearer(guarded.inference)) as client:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert client.get("/v1/models").status_code == 200


def test_a_client_that_takes_nothing(guarded: Guarded) -> None:
    """Its request ends and its rows become free, long before all was sent."""
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Go on"}], "stream": True, "n": 16}
    body = json.dumps(chat | {"logprobs": True, "top_logprobs": 20, "max_tokens": 450}).encode()
    head = f"{HEAD}authorization: Bearer {guarded.inference}\r\ncontent-length: {len(body)}\r\n\r\n"
    at = urlsplit(guarded.url)
    with (
        socket.socket() as connection,
        httpx.Client(base_url=guarded.url, headers=bearer(guarded.metrics)) as client,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect((at.hostname, at.port))
        connection.sendall(head.encode() + body)
        assert running(client, lambda rows: rows > 0)
        assert running(client, lambda rows: rows == 0)
        assert b"[DONE]" not in read_all(connection)


def running(client: httpx.Client, as_wished: Callable[[float], bool]) -> bool:
    """Waits until the rows in the batch are as wished."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = client.get("/metrics").text.splitlines()
        if as_wished(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(RUNNING))):
            return True
    return False
