"""README's commands and its example, run as they stand there."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from gateway.app import App
from gateway.config import CacheConfig, Config, StoreConfig
from gateway.hardware.blas import REFERENCE
from gateway.protocols.anthropic_messages import MessagesRequest
from gateway.protocols.grammar_fields import GrammarFields
from gateway.protocols.openai_chat import ChatRequest
from gateway.protocols.openai_completions import CompletionRequest, FillInRequest
from gateway.protocols.openai_embeddings import EmbeddingBody
from gateway.protocols.openai_responses import ResponsesRequest
from gateway.protocols.rerank import RerankBody
from tests.conftest import REPOSITORY, Server

README = (REPOSITORY / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_two_commands_come_first() -> None:
    assert [block.strip() for block in code_blocks("")[:2]] == ["make serve", "make test"]


@pytest.mark.slow
def test_make_serve_serves(demo_store: Path) -> None:
    """In this checkout, where the set-up is done once; `make test` is what runs this."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment |= {"MLX_GATEWAY_STORE_DIRECTORY": str(demo_store), "MLX_GATEWAY_SERVER_PORT": str(port)}
    process = subprocess.Popen(
        ["make", "serve"], cwd=REPOSITORY, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        assert any("is ready after" in line for line in lines)
        body = {"model": "SmolLM2-135M-Instruct", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 2
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def test_the_example_runs_as_it_stands(demo_server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = code_blocks("python")
    exec(example.replace("http://127.0.0.1:8080", demo_server.url), {})
    assert "Paris" in capsys.readouterr().out


SHARED = set(GrammarFields.__struct_fields__)
FIELDS = {
    "chat": set(ChatRequest.__struct_fields__) - SHARED,
    "completions": {*CompletionRequest.__struct_fields__, *FillInRequest.__struct_fields__} - SHARED,
    "responses": set(ResponsesRequest.__struct_fields__) - SHARED,
    "messages": set(MessagesRequest.__struct_fields__),
    "embeddings": set(EmbeddingBody.__struct_fields__),
    "rerank": set(RerankBody.__struct_fields__),
    "shared": SHARED,
}


@pytest.mark.parametrize("table", FIELDS)
def test_the_tables_name_the_fields_that_mean_something_and_no_others(table: str) -> None:
    rows = README.split(f"| {table} field | |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(FIELDS[table] - {"model"})


async def test_every_route_is_named(tmp_path: Path) -> None:
    config = Config(cache=CacheConfig(disk_bytes=0), store=StoreConfig(str(tmp_path)))
    paths = {route.path for route in App(config, REFERENCE).asgi.routes if isinstance(route, Route)}
    section = README.split("## What it answers")[1].split("These fields mean")[0].replace("\n", " ")
    for path in {path for path in paths if f"/v1{path}" not in paths}:
        name = path.replace("{model_id:path}", "{id}").replace("{request_id}", "{request id}")
        assert re.search(rf"[` ]{re.escape(name)}`", section), name
