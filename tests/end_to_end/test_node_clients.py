"""The Node openai SDK and Vercel's AI SDK against the demo model."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.client_process import run_client
from tests.acceptance.installed import node, npm_packages
from tests.conftest import Server
from tests.end_to_end.test_openai_client import MODEL

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).with_name("node_clients.mjs")


def ask(url: str, model: str, task: str, folder: Path) -> Any:
    """Runs one task of the script."""
    command = (node(), SCRIPT, npm_packages("sdks"), f"{url}/v1", model, task)
    ended = run_client(command, folder, folder / "home", {})
    assert ended.status == 0, f"{ended.output}\n{ended.errors}"
    return json.loads(ended.output.splitlines()[-1])


def test_openai_answers_and_streams_the_same(demo_server: Server, tmp_path: Path) -> None:
    whole = ask(demo_server.url, MODEL, "openaiWhole", tmp_path)
    assert "Paris" in whole["text"]
    assert whole["finish"] == "stop"
    assert whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]
    streamed = ask(demo_server.url, MODEL, "openaiStream", tmp_path)
    assert (streamed["text"], streamed["finish"]) == (whole["text"], whole["finish"])
    assert streamed["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert streamed["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_openai_lists_models_and_knows_our_errors(demo_server: Server, tmp_path: Path) -> None:
    assert ask(demo_server.url, MODEL, "openaiModels", tmp_path) == {"ids": [MODEL], "retrieved": MODEL}
    error = ask(demo_server.url, MODEL, "openaiError", tmp_path)
    assert (error["status"], error["code"]) == (404, "model_not_found")
    assert MODEL in error["message"]


def test_vercel_answers_and_streams_the_same(demo_server: Server, tmp_path: Path) -> None:
    whole = ask(demo_server.url, MODEL, "vercelWhole", tmp_path)
    assert "Paris" in whole["text"]
    assert whole["finish"] == "stop"
    assert whole["usage"]["inputTokens"] > 0
    assert whole["usage"]["outputTokens"] > 0
    streamed = ask(demo_server.url, MODEL, "vercelStream", tmp_path)
    assert (streamed["text"], streamed["finish"]) == (whole["text"], whole["finish"])
    assert streamed["usage"]["totalTokens"] == whole["usage"]["totalTokens"]
