"""Many clients that connect in the same moment, each with one request and one connection, and what became of them.

Plain sockets: a client library would spread the connecting over seconds of its own work.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from loadtests.streaming_client import DATA, DONE, ChatRequest

OK = "ok"
HEAD_END = b"\r\n\r\n"


async def burst(base_url: str, requests: Sequence[ChatRequest], within_seconds: float) -> Counter[str]:
    """How many streams ended how: `OK`, or what went wrong in words."""
    return Counter(await asyncio.gather(*(_end(base_url, request, within_seconds) for request in requests)))


async def _end(base_url: str, request: ChatRequest, within_seconds: float) -> str:
    try:
        async with asyncio.timeout(within_seconds):
            return _verdict(await _exchange(base_url, request))
    except TimeoutError:
        return f"no end within {within_seconds:g} s"
    except OSError as error:
        return f"cut: {type(error).__name__}"


async def _exchange(base_url: str, request: ChatRequest) -> bytes:
    """All that the server sends until it closes the connection."""
    url, body = urlsplit(base_url), msgspec.json.encode(request)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        return await reader.read()
    finally:
        writer.close()


def _verdict(answer: bytes) -> str:
    head, _, body = answer.partition(HEAD_END)
    if not head:
        return "cut: no answer"
    status = head.split(None, 2)[1].decode()
    if status != "200":
        return f"status {status}"
    if b'"error"' in body:
        return "error in the stream"
    return OK if f"{DATA}{DONE}".encode() in body else "cut: no [DONE]"
