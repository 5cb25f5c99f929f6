"""The commands that ask a running server."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, Server


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY, check=False)


def test_a_model_is_pinned_evicted_and_loaded_from_the_command_line(tiny_server: Server) -> None:
    at = ("--url", tiny_server.url)
    assert "pinned" in run("pin", "tiny", *at).stdout
    assert "pinned" not in run("unpin", "tiny", *at).stdout
    assert run("evict", "tiny", *at).stdout.split()[:3] == ["tiny", "on", "disk"]
    assert run("load", "tiny", *at).stdout.split()[:2] == ["tiny", "ready"]
    head, line = run("models", *at).stdout.splitlines()
    assert "in use" in head
    assert line.split()[:2] == ["tiny", "ready"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evict", "nothing"], "Known models: tiny"),
        (["models", "--url", "http://127.0.0.1:1"], "No server answers at http://127.0.0.1:1"),
    ],
    ids=str,
)
def test_what_goes_wrong_is_said(tiny_server: Server, arguments: list[str], says: str) -> None:
    at = [] if "--url" in arguments else ["--url", tiny_server.url]
    failed = run(*arguments, *at)
    assert failed.returncode == 2
    assert says in failed.stderr
