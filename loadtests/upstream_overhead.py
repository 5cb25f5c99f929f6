"""What passing requests on to another server costs: the same streams from a server itself and through a gateway.

python -m loadtests.upstream_overhead [--requests N] [--tokens N]

The server here only sends ready-made events, each with the time it was sent, at a fixed pace or as fast as it can.
So the difference is the gateway's, not a model's.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import httpx
import msgspec

from loadtests.servers import Server, upstream_gateway

MODEL = "timed"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
PACE_SECONDS = 0.02
STREAMS_TOGETHER = 16


@dataclass
class Delays:
    """Seconds from sending to receiving, one for each token, and from a request to its first token."""

    tokens: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)


@asynccontextmanager
async def timed_server() -> AsyncIterator[str]:
    """Answers any POST with `max_tokens` events, `pace` seconds apart; its base URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if head.startswith(b"get"):
                    writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    continue
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                await _answer(writer, msgspec.json.decode(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def _answer(writer: asyncio.StreamWriter, body: dict[str, float]) -> None:
    writer.write(HEAD)
    for _ in range(int(body["max_tokens"])):
        await asyncio.sleep(body["pace"])
        writer.write(_chunk(_event()))
        await writer.drain()
    writer.write(_chunk(DONE) + b"0\r\n\r\n")


def _event() -> bytes:
    """As large as a token's chunk is with most servers."""
    event = {
        "id": "chatcmpl-00000000000000000000000000000000",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": MODEL,
        "choices": [{"index": 0, "delta": {"content": " token"}, "logprobs": None, "finish_reason": None}],
        "sent": time.perf_counter(),
    }
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def stream(client: httpx.AsyncClient, base_url: str, tokens: int, pace: float, delays: Delays) -> None:
    started = time.perf_counter()
    body = {"model": MODEL, "messages": [], "stream": True, "max_tokens": tokens, "pace": pace}
    count = 0
    async with client.stream("POST", f"{base_url}/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                now = time.perf_counter()
                delays.tokens.append(now - msgspec.json.decode(line.removeprefix("data: "))["sent"])
                if count == 0:
                    delays.first_tokens.append(now - started - pace)
                count += 1
    if count != tokens:
        raise SystemExit(f"{base_url} sent {count} tokens of {tokens}")


async def measure(requests: int, tokens: int) -> list[str]:
    """The figures as lines of text."""
    direct, passed = Delays(), Delays()
    async with timed_server() as server_url, _gateway(server_url) as gateway:
        urls = {server_url: direct, f"{gateway.base_url}/v1": passed}
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits()) as client:
            for url in urls:
                await stream(client, url, 1, 0, Delays())  # connects
            for _ in range(requests):  # in turns, so that both meet the same machine
                for url, delays in urls.items():
                    await stream(client, url, tokens, PACE_SECONDS, delays)
            rates, cpu = {}, gateway.cpu_seconds()
            for url in urls:
                began = time.perf_counter()
                many = (stream(client, url, 20 * tokens, 0, Delays()) for _ in range(STREAMS_TOGETHER))
                await asyncio.gather(*many)
                rates[url] = STREAMS_TOGETHER * 20 * tokens / (time.perf_counter() - began)
            per_token = (gateway.cpu_seconds() - cpu) / (STREAMS_TOGETHER * 20 * tokens)
    before, through = rates.values()
    return [
        _told("first token of a request", direct.first_tokens, passed.first_tokens),
        _told("each token, sent to received", direct.tokens, passed.tokens),
        f"{STREAMS_TOGETHER} streams as fast as can be: {before:.0f} tokens/s direct, {through:.0f} through the "
        f"gateway, which uses {1e6 * per_token:.0f} us of CPU for a token",
    ]


@asynccontextmanager
async def _gateway(url: str) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        async with upstream_gateway(MODEL, url, Path(folder)) as gateway:
            yield gateway


def _told(what: str, direct: Sequence[float], passed: Sequence[float]) -> str:
    def both(values: Sequence[float]) -> str:
        return f"{1000 * median(values):.2f} ms (p95 {1000 * quantiles(values, n=20)[-1]:.2f})"

    more = 1000 * (median(passed) - median(direct))
    return f"{what}: {both(direct)} direct, {both(passed)} through the gateway: {more:.2f} ms more"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=50)
    options = parser.parse_args()
    for line in asyncio.run(measure(options.requests, options.tokens)):
        print(line)


if __name__ == "__main__":
    main()
