"""A model that brings its own code: never executed, unless the operator trusts that model."""

import json
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server, StartServer
from tests.tiny_model import write_tiny_model

CODE = """
from pathlib import Path
from mlx_lm.models.llama import Model, ModelArgs
Path(__file__).with_name("executed").touch()
"""


@pytest.fixture
def own_code(tmp_path: Path, demo_folder: Path) -> Path:
    folder = tmp_path / "own-code"
    write_tiny_model(folder, tokenizer_from=demo_folder)
    name_code(folder, "own_model.py")
    (folder / "own_model.py").write_text(CODE)
    return folder


def name_code(folder: Path, file: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "model_file": file}))


def ask(server: Server) -> httpx.Response:
    body = {"model": "own-code", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


def test_without_trust_it_is_refused(start_server: StartServer, own_code: Path) -> None:
    server = start_server("--model", str(own_code), ready=False)
    answer = ask(server)
    assert answer.status_code == 503
    assert "asks to execute 'own_model.py'" in answer.json()["error"]["message"]
    assert "trusted = true" in answer.json()["error"]["message"]
    assert not (own_code / "executed").exists()


def test_with_trust_its_code_computes(start_server: StartServer, own_code: Path) -> None:
    server = start_server("--model", str(own_code), MODEL_TRUSTED="true")
    answer = ask(server)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert (own_code / "executed").exists()


def test_trust_ends_at_the_model_s_folder(start_server: StartServer, own_code: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text(CODE)
    name_code(own_code, "../outside.py")
    server = start_server("--model", str(own_code), ready=False, MODEL_TRUSTED="true")
    assert "is not in the model's folder" in ask(server).json()["error"]["message"]
    assert not (tmp_path / "executed").exists()
