"""What became of each of many connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loadtests.connection_burst import OK, burst
from loadtests.streaming_client import ChatRequest, Message

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"an \\"error\\""}}]}\n\n'
ERROR = b'data: {"error":{"message":"...","type":"server_error","code":"shutting_down"}}\n\n'
DONE = b"data: [DONE]\n\n"
REQUESTS = [ChatRequest("any", [Message("user", f"Say {number}")], max_tokens=2) for number in range(3)]


@asynccontextmanager
async def server_that_sends(answer: bytes, *, then_waits: bool = False) -> AsyncIterator[str]:
    never = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert b'"Say ' in await reader.readexactly(length)
        writer.write(answer)
        await writer.drain()
        if then_waits:
            await never.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        never.set()
        server.close()


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (HEAD + TEXT + DONE, OK),
        (HEAD + TEXT, "cut: no [DONE]"),
        (HEAD + ERROR + DONE, "error in the stream"),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}", "status 429"),
        (b"", "cut: no answer"),
    ],
)
async def test_how_streams_end(answer: bytes, end: str) -> None:
    async with server_that_sends(answer) as url:
        assert await burst(url, REQUESTS, within_seconds=60) == {end: len(REQUESTS)}


async def test_a_server_that_never_ends() -> None:
    async with server_that_sends(HEAD, then_waits=True) as url:
        assert await burst(url, REQUESTS, within_seconds=0.1) == {"no end within 0.1 s": len(REQUESTS)}


async def test_nobody_listens() -> None:
    async with server_that_sends(b"") as url:
        pass
    assert await burst(url, REQUESTS, within_seconds=60) == {"cut: ConnectionRefusedError": len(REQUESTS)}
