"""What the client makes of streams that end well, end with an error, or are cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest

from loadtests.streaming_client import ChatRequest, ChatStream, Message

REQUEST = ChatRequest("any", [Message("user", "Hello")], max_tokens=2)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}\n\n'
ERROR = b'data: {"error":{"message":"...","type":"server_error","code":"shutting_down"}}\n\n'
COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def server_that_sends(*frames: bytes, whole: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A server that answers every request with `frames`, and with the end of the body if `whole`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(frame), frame) for frame in frames)
        writer.write(HEAD + chunks + (b"0\r\n\r\n" if whole else b""))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client


async def received(client: httpx.AsyncClient) -> ChatStream:
    stream = ChatStream()
    await stream.receive(client, REQUEST)
    return stream


async def test_a_whole_stream() -> None:
    async with server_that_sends(COMMENT, ROLE, TEXT, TEXT, STOP, USAGE, DONE) as client:
        stream = await received(client)

    assert (stream.done, stream.finish_reason, stream.error_code) == (True, "stop", None)
    assert (stream.prompt_tokens, stream.tokens) == (5, 7)
    assert len(stream.content_times) == 2  # the role's empty content is none
    assert stream.started < stream.content_times[0] <= stream.content_times[1] <= stream.ended


async def test_without_usage_the_pieces_of_content_are_counted() -> None:
    async with server_that_sends(TEXT, TEXT, STOP, DONE) as client:
        assert (await received(client)).tokens == 2


async def test_an_error_inside_the_stream() -> None:
    async with server_that_sends(TEXT, ERROR, DONE) as client:
        stream = await received(client)

    assert (stream.done, stream.finish_reason, stream.error_code) == (True, None, "shutting_down")


async def test_a_cut_connection_raises_and_wakes_who_waits() -> None:
    stream = ChatStream()
    async with server_that_sends(ROLE, whole=False) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await stream.receive(client, REQUEST)

    assert stream.under_way.is_set()
    assert not stream.done


async def test_who_waits_for_pieces_is_woken_by_them_and_by_the_end() -> None:
    stream = ChatStream()
    async with server_that_sends(TEXT, TEXT, STOP, DONE) as client, asyncio.TaskGroup() as tasks:
        two = tasks.create_task(stream.content(2))
        three = tasks.create_task(stream.content(3))
        await stream.receive(client, REQUEST)
        await two
        await three

    assert stream.text == "HiHi"


async def test_what_is_unset_is_not_sent() -> None:
    assert b"top_p" not in msgspec.json.encode(REQUEST)
    assert b'"top_p":0.9' in msgspec.json.encode(msgspec.structs.replace(REQUEST, top_p=0.9))
