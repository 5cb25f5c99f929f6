"""More work than the server takes, and clients that take nothing."""

import asyncio
import json
import socket
from typing import Any

import httpx

from tests.api.test_disconnect import LONG, metric, until
from tests.conftest import StartServer
from tests.sse import Stream, read_stream


async def test_a_full_queue_refuses_with_a_time_to_come_back(start_server: StartServer, tiny_folder: object) -> None:
    """One request runs, one waits with keep-alives, the third is refused; the first two are served to their ends."""
    server = start_server(
        "--model",
        str(tiny_folder),
        ENGINE_MAX_RUNNING="1",
        ENGINE_MAX_WAITING="1",
        ENGINE_PREFILL_CHUNK_TOKENS="1",
        SERVER_KEEP_ALIVE_SECONDS="0.05",
    )
    body: dict[str, Any] = LONG | {"max_tokens": 30}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def both_queued() -> bool:
            return await metric(client, "vllm:num_requests_waiting") == 1

        tasks: list[asyncio.Task[Stream]] = [asyncio.create_task(read_stream(client, body)) for _ in range(2)]
        await until(both_queued)
        for stream in (False, True):
            refused = await client.post("/v1/chat/completions", json=body | {"stream": stream})
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.json()["error"]["code"] == "server_overloaded"
        served = await asyncio.gather(*tasks)
        assert all(stream.ended_with_done and stream.text for stream in served)
        assert max(stream.comments for stream in served) > 2
        assert await metric(client, 'mlx_gateway_refused_requests_total{reason="Overloaded"}') == 2


async def test_more_choices_than_can_run_together_are_a_400(start_server: StartServer, tiny_folder: object) -> None:
    server = start_server("--model", str(tiny_folder), ENGINE_MAX_RUNNING="2")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        response = await client.post("/v1/chat/completions", json=LONG | {"n": 3, "max_tokens": 1})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "n"
        response = await client.post("/v1/chat/completions", json=LONG | {"n": 2, "max_tokens": 1})
        assert len(response.json()["choices"]) == 2


async def test_a_client_that_stops_reading_is_let_go(start_server: StartServer, tiny_folder: object) -> None:
    server = start_server("--model", str(tiny_folder), SERVER_SEND_TIMEOUT_SECONDS="0.5")
    host, port = server.url.removeprefix("http://").split(":")
    hello = [{"role": "user", "content": "Hello"}]
    body = {"model": "tiny", "messages": hello, "stream": True, "n": 8, "logprobs": True, "top_logprobs": 20}
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def let_go() -> bool:
            return (
                await metric(client, 'mlx_gateway_unfinished_requests_total{model_name="tiny",reason="cancelled"}') == 1
            )

        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((host, int(port)))
            deaf.sendall(head + content)
            await until(let_go)

        async def idle() -> bool:
            return await metric(client, "vllm:num_requests_running") == 0

        await until(idle)
