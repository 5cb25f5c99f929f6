"""CPU time of the gateway's HTTP side per streamed token: that of its event loop's thread, which is the first."""

import psutil  # type: ignore[import-untyped]

from loadtests.contenders import Contenders
from loadtests.figure import Measured, at_most, median_of, span
from loadtests.prompts import long_story
from loadtests.servers import Server
from loadtests.streaming_client import ChatRequest
from loadtests.turns import all_at_once

CLIENTS = 16
ANSWER_TOKENS = 96  # 1,536 tokens: the clock's 10 ms are 0.007 ms of a token


async def measure(contenders: Contenders, rounds: int) -> Measured:
    """Requests and prompts are counted too, shared among the tokens."""
    server = contenders.gateway
    milliseconds, tokens = list[float](), list[int]()
    for _ in range(rounds):
        requests = [ChatRequest(server.model, long_story(0), ANSWER_TOKENS) for _ in range(CLIENTS)]
        before = _event_loop_seconds(server)
        streams = await all_at_once(server, requests)
        used = _event_loop_seconds(server) - before
        tokens.append(sum(stream.tokens for stream in streams))
        milliseconds.append(1000 * used / tokens[-1])
    return Measured(
        [median_of("gateway: CPU of the event loop per streamed token, ms", milliseconds, at_most(0.3))],
        [f"{CLIENTS} clients; {span(tokens)} tokens in all"],
    )


def _event_loop_seconds(server: Server) -> float:
    """Of the thread whose id is the process's; where threads are merely numbered (macOS), of the first."""
    pid = server.process.pid
    threads = {thread.id: thread for thread in psutil.Process(pid).threads()}
    first = threads.get(pid) or threads[min(threads)]
    return float(first.user_time + first.system_time)
