"""Servers elsewhere that are slow, lie, break off or talk garbage: another one answers, or the client is told once."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.model_pool.upstream_choice import Standing, choose
from tests.conftest import Server, running_server
from tests.scripted_upstream import ANSWER, CHUNK, DONE, Exchange, Script, ScriptedUpstream, scripted_upstream
from tests.sse import read_stream

KEY = "key-of-the-upstream-4711"
MESSAGES = [{"role": "user", "content": "a secret prompt"}]
REFUSAL = b'{"error":\n {"message": "prompt is too long", "code": "context_length_exceeded"}}'


def closes(exchange: Exchange) -> None:
    pass


def answers_html(exchange: Exchange) -> None:
    exchange.begin(kind="text/html")
    exchange.send(b"<html>It works!</html>")


def answers_half(exchange: Exchange) -> None:
    exchange.begin(kind="text/event-stream" if exchange.stream else "application/json")
    exchange.send(CHUNK[:40] if exchange.stream else json.dumps(ANSWER).encode()[:40])


def lies_about_its_length(exchange: Exchange) -> None:
    exchange.begin(kind="text/event-stream" if exchange.stream else "application/json", content_length="1000")
    exchange.send(b": just a moment\n\n" if exchange.stream else json.dumps(ANSWER).encode())


def speaks_no_http(exchange: Exchange) -> None:
    exchange.send(b"\x00\x01\x02 SSH-2.0\r\n\r\n")


def says_nothing(exchange: Exchange) -> None:
    exchange.until_left()


def is_overloaded(exchange: Exchange) -> None:
    exchange.begin("503 Service Unavailable", retry_after="7")
    exchange.send(b'{"error":{"message":"too many requests"}}')


def takes_no_key(exchange: Exchange) -> None:
    exchange.begin("401 Unauthorized")
    exchange.send(b'{"error":{"message":"a wrong key"}}')


def redirects(exchange: Exchange) -> None:
    exchange.begin("307 Temporary Redirect", location="http://127.0.0.1:1/v1")


def refuses(exchange: Exchange) -> None:
    exchange.begin("400 Bad Request", x_seen="yes")
    exchange.send(REFUSAL)


def refuses_at_length(exchange: Exchange) -> None:
    exchange.begin("500 Internal Server Error")
    exchange.send(b'{"error":{"message":"' + b"x" * 10**6 + b'"}}')


def refuses_in_html(exchange: Exchange) -> None:
    exchange.begin("404 Not Found", "text/html")
    exchange.send(b"<html>none</html>")


def breaks_off(exchange: Exchange) -> None:
    """As one that is killed within an answer that ends with the connection (HTTP/1.0): it looks like an end."""
    exchange.begin_stream()
    exchange.send(CHUNK + CHUNK[:30])


def falls_silent(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.send(CHUNK)
    exchange.until_left()


def tells_an_error(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.send(CHUNK + b'data: {"error":{"message":"out of memory"}}\n\n' + DONE)


def goes_on_after_the_end(exchange: Exchange) -> None:
    exchange.begin_stream()
    exchange.send(CHUNK + DONE)
    exchange.send(CHUNK)


def refuses_late(exchange: Exchange) -> None:
    time.sleep(0.4)  # longer than first_event_seconds
    refuses(exchange)


def never_ends_an_event(exchange: Exchange) -> None:
    exchange.begin_stream()
    for _ in range(200):
        exchange.send(b"x" * 65536)


FAILING_BEFORE_THE_FIRST_BYTE = (
    closes,
    answers_html,
    answers_half,
    lies_about_its_length,
    speaks_no_http,
    says_nothing,
    is_overloaded,
    takes_no_key,
    redirects,
)
OTHERS = (
    refuses,
    refuses_at_length,
    refuses_in_html,
    breaks_off,
    falls_silent,
    tells_an_error,
    goes_on_after_the_end,
    refuses_late,
    never_ends_an_event,
)
SCRIPTS: dict[str, Script] = {script.__name__: script for script in (*FAILING_BEFORE_THE_FIRST_BYTE, *OTHERS)}


@dataclass
class Setting:
    gateway: Server
    bad: ScriptedUpstream
    worse: ScriptedUpstream
    good: ScriptedUpstream

    def session(self, *order: ScriptedUpstream) -> dict[str, str]:
        """A header by which the servers are asked in this order, and the others only after them."""
        servers = {one.name: Standing(0, 0, up=True, rests_until=0) for one in (self.bad, self.worse, self.good)}

        def is_in_order(session: str) -> bool:
            left = dict(servers)
            for one in order:
                if choose(left, 0, session, None) != one.name:
                    return False
                del left[one.name]
            return True

        return {"x-session-id": next(name for name in map(str, range(1000)) if is_in_order(name))}


def model(name: str, calls: str, *upstreams: ScriptedUpstream) -> str:
    return (
        f'[[models]]\nid = "{name}"\n[[models.upstreams]]\nurls = {json.dumps([one.url for one in upstreams])}\n'
        f'model = "{calls}"\nkey = "env:UPSTREAM_KEY"\nheaders = {{ X-Team = "blue" }}\n'
        "first_byte_seconds = 0.5\nsilence_seconds = 0.3\n"
    )


@pytest.fixture(scope="module")
def setting(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """For each script a model `alone-...` that only runs on the bad server, and `...` that also runs on a good one."""
    file = tmp_path_factory.mktemp("upstreams") / "config.toml"
    with scripted_upstream(SCRIPTS) as bad, scripted_upstream(SCRIPTS) as worse, scripted_upstream({}) as good:
        models = [model("well", "listed", good), model("risky", "closes", bad, worse, good)]
        for name in SCRIPTS:
            models += [model(f"alone-{name}", name, bad), model(name, name, bad, good)]
        file.write_text("".join(models))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("UPSTREAM_KEY", KEY)
            arguments = ("--config", str(file), "--log-level", "debug")
            with running_server(demo_store, *arguments, ready=False, SERVER_FIRST_EVENT_SECONDS="0.2") as gateway:
                yield Setting(gateway, bad, worse, good)
                assert KEY not in gateway.log
                assert MESSAGES[0]["content"] not in gateway.log


@pytest.fixture
async def client(setting: Setting) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=setting.gateway.url, timeout=30) as client:
        yield client


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, **more}


@pytest.mark.parametrize("script", FAILING_BEFORE_THE_FIRST_BYTE, ids=lambda script: script.__name__)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_another_server_answers(
    client: httpx.AsyncClient, setting: Setting, script: Script, stream: bool
) -> None:
    name = script.__name__
    client.headers.update(setting.session(setting.bad))
    before = setting.bad.asked(name)
    if stream:
        streamed = await read_stream(client, chat(name))
        assert (streamed.text, streamed.errors, streamed.ended_with_done) == ("well", [], True)
    else:
        answer = await client.post("/v1/chat/completions", json=chat(name))
        assert (answer.status_code, answer.json()) == (200, ANSWER | {"model": name})
    assert setting.bad.asked(name) <= before + 1
    assert setting.bad.asked(name) > 0  # though not every time: it rests for a while


ERRORS: dict[Script, tuple[int, str]] = {
    closes: (502, "closed the connection before it answered"),
    answers_html: (502, "no valid JSON"),
    answers_half: (502, "no valid JSON"),
    lies_about_its_length: (502, "closed the connection within its answer"),
    speaks_no_http: (502, "closed the connection before it answered"),
    says_nothing: (502, "answered nothing for 0.5 s"),
    is_overloaded: (503, "too many requests"),
    takes_no_key: (502, "does not take this gateway's key"),
    redirects: (502, "answered with status 307"),
    refuses: (400, "prompt is too long"),
    refuses_at_length: (500, "answered with status 500"),
    refuses_in_html: (404, "answered with status 404"),
}


@pytest.mark.parametrize("script", ERRORS, ids=lambda script: script.__name__)
async def test_without_another_server_the_client_is_told(client: httpx.AsyncClient, script: Script) -> None:
    status, said = ERRORS[script]
    answer = await client.post("/v1/chat/completions", json=chat(f"alone-{script.__name__}"))
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert len(answer.content) < 1000
    assert "www-authenticate" not in answer.headers


async def test_a_refusal_is_passed_on_as_it_is_and_nobody_else_is_asked(
    client: httpx.AsyncClient, setting: Setting
) -> None:
    asked = setting.good.asked("refuses")
    for body in (chat("refuses"), chat("refuses", stream=True)):
        answer = await client.post("/v1/chat/completions", json=body, headers=setting.session(setting.bad))
        assert (answer.status_code, answer.content, answer.headers["x-seen"]) == (400, REFUSAL, "yes")
    assert setting.good.asked("refuses") == asked
    busy = await client.post("/v1/chat/completions", json=chat("alone-is_overloaded", stream=True))
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "7")
    in_html = await client.post("/v1/messages", json=chat("alone-refuses_in_html"))
    assert in_html.status_code == 404
    assert in_html.json()["type"] == "error"
    assert in_html.headers["request-id"] == in_html.headers["x-request-id"]


async def test_a_refusal_that_comes_late_is_told_within_the_stream(client: httpx.AsyncClient) -> None:
    stream = await read_stream(client, chat("alone-refuses_late"))
    assert (stream.status, stream.ended_with_done) == (200, True)
    assert stream.errors == [json.loads(REFUSAL)["error"]]


@pytest.mark.parametrize("script", [breaks_off, falls_silent], ids=lambda script: script.__name__)
async def test_a_stream_that_began_ends_with_one_error(
    client: httpx.AsyncClient, setting: Setting, script: Script
) -> None:
    """In each protocol's way; the client has a part of the answer, so nobody else is asked."""
    asked = setting.good.asked(script.__name__)
    client.headers.update(setting.session(setting.bad))
    stream = await read_stream(client, chat(script.__name__))
    assert (stream.text, stream.ended_with_done, len(stream.errors)) == ("well", True, 1)
    assert stream.errors[0]["code"] == "upstream_failed"
    assert setting.good.asked(script.__name__) == asked
    for path in ("/v1/messages", "/v1/responses"):
        text = (await client.post(path, json=chat(f"alone-{script.__name__}", stream=True))).text
        assert text.count("event: error") == 1
        assert "upstream_failed" in text or "broke" in text or "nothing more" in text
        assert text.endswith("}\n\n")


async def test_an_error_that_the_server_told_is_not_told_again(client: httpx.AsyncClient) -> None:
    stream = await read_stream(client, chat("alone-tells_an_error"))
    assert (stream.text, stream.ended_with_done) == ("well", True)
    assert stream.errors == [{"message": "out of memory"}]


async def test_nothing_follows_the_end(client: httpx.AsyncClient) -> None:
    stream = await read_stream(client, chat("alone-goes_on_after_the_end"))
    assert (stream.text, stream.ended_with_done, stream.errors) == ("well", True, [])


async def test_an_endless_event_is_cut(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/chat/completions", json=chat("alone-never_ends_an_event", stream=True))
    assert "bytes" in answer.text
    assert len(answer.content) < 1000


async def test_a_request_that_two_servers_broke_down_under_is_not_given_to_a_third(
    client: httpx.AsyncClient, setting: Setting
) -> None:
    """It may be why they broke down."""
    asked = setting.good.asked("closes")
    order = setting.session(setting.bad, setting.worse)
    answer = await client.post("/v1/chat/completions", json=chat("risky"), headers=order)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")
    assert setting.worse.asked("closes") == 1
    assert setting.good.asked("closes") == asked
    later = await client.post("/v1/chat/completions", json=chat("risky"), headers=order)
    assert later.status_code == 200  # those two rest


async def test_keys_are_exchanged_and_other_headers_passed_on(client: httpx.AsyncClient, setting: Setting) -> None:
    mine = {"authorization": "Bearer mine", "x-api-key": "mine", "cookie": "a=b", "x-priority": "background"}
    answer = await client.post("/v1/chat/completions", json=chat("well"), headers=mine)
    got = setting.good.exchanges[-1]
    assert (got.path, got.body["model"], got.body["messages"]) == ("/v1/chat/completions", "listed", MESSAGES)
    assert got.headers["authorization"] == f"Bearer {KEY}"
    assert got.headers["x-team"] == "blue"
    assert got.headers["x-priority"] == "background"
    assert got.headers["x-request-id"] == answer.headers["x-request-id"]
    assert not {"x-api-key", "cookie"} & got.headers.keys()
    assert "mine" not in got.headers["x-session-id"]
    named = {"x-session-id": "my session"}
    await client.post("/v1/chat/completions", json=chat("well"), headers=named)
    assert setting.good.exchanges[-1].headers["x-session-id"] == "my session"


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/embeddings", "/v1/embeddings"),
        ("/v1/rerank", "/v1/rerank"),
        ("/v2/rerank", "/v2/rerank"),
        ("/v1/tokenize", "/tokenize"),
        ("/v1/messages/count_tokens", "/v1/messages/count_tokens"),
    ],
)
async def test_paths_are_where_other_servers_have_them(
    client: httpx.AsyncClient, setting: Setting, path: str, there: str
) -> None:
    assert (await client.post(path, json={"model": "well"})).status_code == 200
    assert setting.good.exchanges[-1].path == there


async def test_a_model_elsewhere_is_listed_with_what_its_server_says(client: httpx.AsyncClient) -> None:
    listed = {one["id"]: one for one in (await client.get("/v1/models")).json()["data"]}
    assert listed["well"]["context_length"] == 4096
    assert "context_length" not in listed["risky"]
    assert (await client.get("/health/ready")).status_code == 200
    servers = {one["model"]: one["servers"] for one in (await client.get("/admin/upstreams")).json()["models"]}
    (server,) = servers["well"]
    assert (server["up"], server["model"]) == (True, "listed")
    assert KEY not in json.dumps(servers)


async def test_what_needs_the_model_here_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/chat", json=chat("well"))
    assert answer.status_code == 400
    assert "runs on other servers" in answer.json()["error"]
    assert (await client.post("/admin/models/well/evict")).status_code == 400
    assert (await client.get("/api/tags")).json() == {"models": []}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model": 3}', b'{"model": "none"}', b'{"model": "well"'])
async def test_a_body_that_names_no_model_elsewhere_is_answered_here(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/v1/chat/completions", content=body)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["type"] == "invalid_request_error"
