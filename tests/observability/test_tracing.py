import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import StartServer

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP receiver over HTTP: its address, and the spans that came."""
    spans: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = ExportTraceServiceRequest()
            message.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
            spans.extend(s for r in message.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_request_is_a_span_of_its_clients_trace(
    start_server: StartServer, tiny_folder: Path, collector: tuple[str, list[Any]]
) -> None:
    url, spans = collector
    server = start_server("--model", str(tiny_folder), OTEL_ENDPOINT=url)
    body = {"model": "tiny", "max_tokens": 3, "messages": [{"role": "user", "content": "A zebra."}]}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    usage = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60).json()["usage"]
    assert server.stop() == 0
    by_name = {span.name: span for span in spans if span.trace_id.hex() == TRACE}
    assert set(by_name) == {"chat tiny", "queue", "prefill", "decode"}
    chat = by_name["chat tiny"]
    assert chat.parent_span_id.hex() == PARENT
    assert {by_name[name].parent_span_id for name in ("queue", "prefill", "decode")} == {chat.span_id}
    said = {one.key: one.value for one in chat.attributes}
    assert said["gen_ai.usage.input_tokens"].int_value == usage["prompt_tokens"]
    assert said["gen_ai.usage.output_tokens"].int_value == 3
    assert said["gen_ai.response.finish_reasons"].array_value.values[0].string_value == "length"
    assert "zebra" not in str(spans)
