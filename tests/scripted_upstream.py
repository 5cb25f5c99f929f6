"""A server that misbehaves as it is told: by the model that a request names."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

ANSWER = {"id": "1", "model": "as the server calls it", "choices": [{"message": {"content": "well"}}]}
CHUNK = b'data: {"model":"as the server calls it","choices":[{"index":0,"delta":{"content":"well"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Exchange:
    """One request, and the connection it came on, which is closed when its script returns."""

    def __init__(self, handler: socketserver.StreamRequestHandler) -> None:
        self._handler = handler
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += (line := handler.rfile.readline())
            if not line:
                raise ConnectionResetError
        first, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        content = handler.rfile.read(int(self.headers.get("content-length", "0")))
        self.body: dict[str, Any] = json.loads(content) if content else {}

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    def send(self, data: bytes) -> None:
        self._handler.wfile.write(data)

    def begin(self, status: str = "200 OK", kind: str = "application/json", **headers: str) -> None:
        """The head of an answer that ends with the connection."""
        lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def begin_stream(self) -> None:
        self.begin(kind="text/event-stream")

    def answer(self) -> None:
        """As a server should."""
        if self.stream:
            self.begin_stream()
            self.send(CHUNK + DONE)
        else:
            self.begin()
            self.send(json.dumps(ANSWER).encode())

    def until_left(self) -> None:
        """Waits until the other side closes the connection."""
        self._handler.rfile.read(1)


Script = Callable[[Exchange], None]


@dataclass
class ScriptedUpstream:
    """Answers as the script of a request's model says, and as a server should where there is none."""

    scripts: Mapping[str, Script]
    port: int = 0
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}/v1"

    def asked(self, model: str) -> int:
        """How many requests for the model came."""
        return sum(exchange.body.get("model") == model for exchange in self.exchanges)

    def handle(self, handler: socketserver.StreamRequestHandler) -> None:
        exchange = Exchange(handler)
        if exchange.method == "GET":
            exchange.begin()
            exchange.send(b'{"object":"list","data":[{"id":"listed","max_model_len":4096}]}')
            return
        self.exchanges.append(exchange)
        self.scripts.get(exchange.body["model"], Exchange.answer)(exchange)


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


@contextmanager
def scripted_upstream(scripts: Mapping[str, Script], port: int = 0) -> Iterator[ScriptedUpstream]:
    upstream = ScriptedUpstream(scripts)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionResetError, BrokenPipeError):
                upstream.handle(self)

    with _Listener(("127.0.0.1", port), Handler) as listener:
        upstream.port = listener.server_address[1]
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield upstream
        listener.shutdown()
        thread.join()
