"""Tokens that cannot be brought to their client: its request ends with an error, its neighbours and the engine go on.

The whole server runs in this process, so that faults can be put between the engine's report and the client.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.app import App
from gateway.chat.detokenizer import Detokenizer
from gateway.config import CacheConfig, Config, ModelConfig, StoreConfig
from gateway.engine.engine import Engine
from gateway.engine.token_stream import GeneratedToken, TokenRequest, TokenStream
from gateway.hardware.blas import REFERENCE
from gateway.observability.metrics import ModelMetrics
from gateway.protocols import openai_chat_answer
from gateway.server import bind
from gateway.serving import text as serving_text
from tests.api.test_disconnect import metric, until
from tests.sse import read_stream

TOKENS = 60
BODY: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": TOKENS,
    "logit_bias": {"2": -100},
}
BODIES = [BODY, BODY | {"messages": [{"role": "user", "content": "Good morning"}]}, BODY | {"n": 2}]


@pytest.fixture
async def client(demo_store: Path, tiny_folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Of a server on a port of its own."""
    config = Config(
        model=ModelConfig(source=str(tiny_folder)),
        cache=CacheConfig(disk_bytes=0),
        store=StoreConfig(str(demo_store)),
    )
    app = App(config, REFERENCE)
    port = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app.asgi, http="httptools", lifespan="off", log_config=None))
    async with app.running():
        serving = asyncio.create_task(server.serve([port]))
        url = "http://{}:{}".format(*port.getsockname())
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:

            async def ready() -> bool:
                return (await client.get("/health/ready")).status_code == 200

            await until(ready)
            yield client
        server.should_exit = True
        await serving


Fault = Callable[[pytest.MonkeyPatch], None]


def in_handing_over(patch: pytest.MonkeyPatch) -> None:
    """Of the first request, from its fifth token on. Its neighbours' tokens stand in the same reports."""
    feed, first, fed = TokenStream.feed, None, 0

    def faulty(stream: TokenStream, token: GeneratedToken) -> None:
        nonlocal first, fed
        first = first or stream
        fed += stream is first
        if stream is first and fed >= 5:
            raise RuntimeError("a defect")
        feed(stream, token)

    patch.setattr(TokenStream, "feed", faulty)


def in_detokenising(patch: pytest.MonkeyPatch) -> None:
    made = 0

    class Faulty(Detokenizer):
        def __init__(self, tokenizer: Any, visible: Iterable[str] = ()) -> None:
            nonlocal made
            super().__init__(tokenizer, visible)
            made += 1
            self.number, self.fed = made, 0

        def feed(self, token: int) -> str:
            self.fed += 1
            if self.number == 1 and self.fed == 5:
                raise RuntimeError("a defect")
            return super().feed(token)

    patch.setattr(serving_text, "Detokenizer", Faulty)


def in_writing_a_frame(patch: pytest.MonkeyPatch) -> None:
    """The fifth chunk of the first stream, or the first whole answer."""
    choice, first, written = openai_chat_answer.ChatStream._choice, None, 0
    usage, answers = openai_chat_answer.usage, 0

    def faulty_choice(stream: openai_chat_answer.ChatStream, chunk: openai_chat_answer.ChunkChoice) -> bytes:
        nonlocal first, written
        first = first or stream
        written += stream is first
        if stream is first and written == 5:
            raise RuntimeError("a defect")
        return choice(stream, chunk)

    def faulty_usage(finished: Any) -> openai_chat_answer.Usage:
        nonlocal answers
        answers += 1
        if answers == 1:
            raise RuntimeError("a defect")
        return usage(finished)

    patch.setattr(openai_chat_answer.ChatStream, "_choice", faulty_choice)
    patch.setattr(openai_chat_answer, "usage", faulty_usage)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", [in_handing_over, in_detokenising, in_writing_a_frame])
async def test_an_answer_that_cannot_be_delivered_ends_alone(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, fault: Fault, stream: bool
) -> None:
    alone = [await _answer(client, body, stream) for body in BODIES]
    with monkeypatch.context() as patch:
        fault(patch)
        together = await asyncio.gather(*(_answer(client, body, stream) for body in BODIES))
    failed = [index for index, (_, error) in enumerate(together) if error]
    assert len(failed) == 1
    for index, (text, error) in enumerate(together):
        if error:
            assert alone[index][0].startswith(text)
            assert error["type"] == "server_error"
            assert "see the server's log" in error["message"]
            assert "a defect" not in error["message"]  # that is for the log
        else:
            assert (text, error) == alone[index]
    await until(lambda: _running(client, 0))
    assert [await _answer(client, body, stream) for body in BODIES] == alone
    assert (await client.get("/health/ready")).status_code == 200


async def test_a_request_that_cannot_be_answered_never_runs(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[object] = []
    submit = Engine.submit

    def faulty(*arguments: object) -> None:
        raise RuntimeError("a defect")

    def noted(engine: Engine, request: TokenRequest) -> TokenStream:
        submitted.append(request)
        return submit(engine, request)

    with monkeypatch.context() as patch:
        patch.setattr(serving_text, "_new_answers", faulty)
        patch.setattr(Engine, "submit", noted)
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 500
    assert not submitted


async def test_a_prompt_that_is_too_long_is_refused_before_its_grammar_is_compiled(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def compiled(*arguments: object) -> None:
        raise RuntimeError("too late")

    monkeypatch.setattr(serving_text.TextServing, "_compiled", compiled)
    long = BODY | {"messages": [{"role": "user", "content": "word " * 600}], "response_format": {"type": "json_object"}}
    response = await client.post("/v1/chat/completions", json=long)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_figures_that_cannot_be_noted_cost_no_token(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone = await _answer(client, BODY, stream=True)

    def faulty(metrics: ModelMetrics, state: object) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "gateway"):
        patch.setattr(ModelMetrics, "step_done", faulty)
        assert await _answer(client, BODY, stream=True) == alone
    assert "a defect" in caplog.text


async def _running(client: httpx.AsyncClient, rows: int) -> bool:
    return await metric(client, "vllm:num_requests_running") == rows


async def _answer(client: httpx.AsyncClient, body: dict[str, Any], stream: bool) -> tuple[str, dict[str, Any] | None]:
    """The first choice's text as far as it came, and the error that ended it."""
    if stream:
        read = await read_stream(client, body)
        assert read.status == 200
        assert read.ended_with_done
        assert len(read.errors) <= 1
        choices = [choice for chunk in read.chunks for choice in chunk["choices"] if choice["index"] == 0]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        return text, read.errors[0] if read.errors else None
    response = await client.post("/v1/chat/completions", json=body)
    if response.status_code == 200:
        return response.json()["choices"][0]["message"]["content"], None
    assert response.status_code == 500
    return "", response.json()["error"]
