"""A model that is quantised because the configuration says so, served under its own name."""

from pathlib import Path

import httpx
import pytest

from gateway.config import load_config
from gateway.errors import ConfigError
from gateway.model_store.store import ModelStore
from tests.conftest import StartServer


def ask(url: str, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_it_is_quantised_once_and_serves_under_its_name(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    first = start_server("--model", str(tiny_folder), STORE_DIRECTORY=store, MODEL_QUANTIZE="4:32")
    text = ask(first.url, "tiny")
    ModelStore(tmp_path / "store").locate("tiny-4bit-g32", lambda _fraction, _doing: None)
    assert "made from tiny: 4:32" in first.log
    first.stop()

    again = start_server("--model", str(tiny_folder), STORE_DIRECTORY=store, MODEL_QUANTIZE="4:32")
    assert ask(again.url, "tiny") == text
    assert "quantising" not in again.log
    by_its_own_name = start_server("--model", "tiny-4bit-g32", STORE_DIRECTORY=store)
    assert ask(by_its_own_name.url, "tiny-4bit-g32") == text


def test_auto_says_what_it_chose(start_server: StartServer, tiny_folder: Path, tmp_path: Path) -> None:
    server = start_server("--model", str(tiny_folder), STORE_DIRECTORY=str(tmp_path / "store"), MODEL_QUANTIZE="auto")
    assert "as it is, it takes" in server.wait_for_log("the folder")
    assert list((tmp_path / "store" / "models").iterdir()) == []


@pytest.mark.parametrize("wrong", ["7", "4:48", "mixed_4_5", "yes", "4 "])
def test_a_wish_that_is_none_is_refused_at_the_start(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"quantize"):
        load_config(environment={"MLX_GATEWAY_MODEL_QUANTIZE": wrong})
