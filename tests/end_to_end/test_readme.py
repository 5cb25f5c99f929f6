"""README's commands and its example, run as they stand there."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.conftest import REPOSITORY, Server

README = (REPOSITORY / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_two_commands_come_first() -> None:
    assert [block.strip() for block in code_blocks("")[:2]] == ["make serve", "make test"]


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


def test_every_field_the_readme_names_is_one_the_server_knows() -> None:
    from gateway.protocols.openai_chat import ChatRequest

    table = README.split("| request field | |")[1].split("| anything else")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)[.`]", row.split("|")[1])}
    known = set(ChatRequest.__struct_fields__) - {"model", "modalities", "audio"}
    assert named == known
