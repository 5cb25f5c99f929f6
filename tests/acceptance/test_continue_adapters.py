"""Continue's own library for servers, as its IDE extensions use it: autocomplete, chat, search in a code base."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import MODEL, Scene, StartScene
from tests.acceptance.installed import node, npm_packages
from tests.acceptance.task import Task
from tests.conftest import running_server

SCRIPT = Path(__file__).with_name("continue_adapters.mjs")
FILLED = '"harbour"'
RULES = [("<.fim_prefix.>def keyword.*<.fim_suffix.>.*print.*<.fim_middle.>", FILLED), ("", "The keyword is harbour.")]

EMBEDDER = "all-MiniLM-L6-v2"

Ask = Callable[[str], Any]


def test_autocomplete_chat_and_models(scene: StartScene) -> None:
    ask = asker(scene(RULES), MODEL)
    assert ask("fillIn") == FILLED
    assert ask("complete") == FILLED
    answer = ask("chat")
    assert answer["text"] == "The keyword is harbour."
    assert answer["usage"]["prompt_tokens"] > 0
    assert answer["usage"]["completion_tokens"] > 0
    assert ask("list") == [MODEL]


def test_embeddings_and_ranking(tmp_path: Path) -> None:
    server = running_server(tmp_path / "store", "--model", EMBEDDER)
    with server as started:
        ask = asker(Scene(started.url, Task(tmp_path / "workspace", tmp_path), tmp_path / "home"), EMBEDDER)
        cat, kitten, taxes = ask("embed")
        assert _dot(cat, kitten) > _dot(cat, taxes)
        assert _dot(cat, cat) == pytest.approx(1, abs=1e-3)
        ranked = ask("rerank")
    relevance = {entry["index"]: entry["relevance_score"] for entry in ranked}
    assert relevance[1] > relevance[0]


def asker(gateway: Scene, model: str) -> Ask:
    """Runs one of the script's tasks against a gateway."""
    package = npm_packages("continue_adapters") / "@continuedev" / "openai-adapters"

    def ask(task: str) -> Any:
        output = gateway.run(node(), SCRIPT, package, f"{gateway.url}/v1/", model, task)
        return json.loads(output.splitlines()[0])

    return ask


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
