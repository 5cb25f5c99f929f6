"""The commands about stored models, against a hub on loopback."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.cli import main

from .hub_files import FILES, WEIGHTS
from .hub_server import COMMIT, HubServer

CHECKOUT = Path(__file__).parents[2]
NEXT = "f" * 40


@dataclass(frozen=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Finished]


@pytest.fixture
def _settings(hub: HubServer, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("MLX_GATEWAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLX_GATEWAY_STORE_DIRECTORY", str(root))
    monkeypatch.setenv("MLX_GATEWAY_DOWNLOADS_ENDPOINT", hub.endpoint)


@pytest.fixture
def run(_settings: None, capsys: pytest.CaptureFixture[str]) -> Run:
    """In this process: starting one takes a second each time."""

    def run(*arguments: str) -> Finished:
        status = main(list(arguments))
        return Finished(status, *capsys.readouterr())

    return run


@pytest.mark.usefixtures("_settings")
def test_a_model_is_pulled_by_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "gateway", "pull", "org/model"]
    first = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert f"version {COMMIT[:12]}" in first.stdout
    assert "100%" in first.stderr
    assert (Path(first.stdout.splitlines()[-1]) / "model.safetensors").read_bytes() == WEIGHTS


def test_the_life_of_a_model(hub: HubServer, run: Run) -> None:
    assert run("pull", "org/model").returncode == 0
    assert "the same" in run("outdated").stdout

    hub.commit("org/model", NEXT, FILES | {"config.json": b'{"a": 1}'})
    assert f"{NEXT[:12]}: pull it" in run("outdated", "org/model").stdout
    assert run("pull", "org/model").returncode == 0
    lines = run("versions").stdout.splitlines()
    assert len(lines) == 3
    assert "current" not in lines[1]
    assert lines[1].split()[1].startswith(COMMIT[:12])
    assert " current  " in lines[2]
    assert lines[2].endswith("mit")

    assert f"version {COMMIT[:12]}" in run("rollback", "org/model").stdout
    asked = len(hub.requests)
    assert "6 files are sound, 6 with a digest that the source declared; unsigned" in run("verify").stdout
    assert "nothing to remove" in run("gc", "--pin", f"org/model@{NEXT}").stdout
    assert f"removed org/model {NEXT[:12]}" in run("gc").stdout
    assert f"removed org/model {COMMIT[:12]}" in run("remove", "org/model").stdout
    assert len(hub.requests) == asked  # of what is stored nobody is told


def test_damage_is_found_and_repaired(run: Run) -> None:
    folder = Path(run("pull", "org/model").stdout.splitlines()[-1])
    (folder / "model.safetensors").write_bytes(bytes(len(WEIGHTS)))
    (folder / "foreign.json").touch()

    found = run("verify", "org/model", "--repair")

    assert found.returncode == 1
    assert "damaged: model.safetensors; not in the manifest: foreign.json" in found.stdout
    assert run("pull", "org/model").returncode == 0
    assert run("verify").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pull", "no-model"], "'no-model' is no Hugging Face id"),
        (["pull", "org/absent"], "has no model org/absent"),
        (["versions", "org/absent"], "no model 'org/absent'"),
        (["rollback", "org/absent"], "no model 'org/absent'"),
        (["verify", "org/absent"], "no model 'org/absent'"),
        (["outdated", "org/absent"], "no model 'org/absent'"),
        (["remove", "org/absent"], "no model 'org/absent'"),
        (["gc", "--pin", "x"], "'x' is no Hugging Face id"),
    ],
)
def test_a_mistake_is_told(arguments: list[str], told: str, run: Run) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert told in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr


def test_an_unfinished_download_is_removed_when_asked_for(hub: HubServer, root: Path, run: Run) -> None:
    hub.corrupt.add("config.json")
    assert run("pull", "org/model").returncode == 2
    assert run("gc").stdout == "nothing to remove\n"
    assert "unfinished download" in run("gc", "--downloads").stdout
    assert list((root / "incoming").iterdir()) == []
