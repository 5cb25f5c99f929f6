"""Ollama's official client against the demo model."""

import ollama
import pytest

from tests.conftest import Server

MODEL = "SmolLM2-135M-Instruct"
QUESTION = {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
EXACT = {"temperature": 0, "num_predict": 40}


@pytest.fixture
def client(demo_server: Server) -> ollama.Client:
    return ollama.Client(host=demo_server.url)


def test_a_chat_streamed_and_whole(client: ollama.Client) -> None:
    whole = client.chat(model=MODEL, messages=[QUESTION], options=EXACT)
    assert "Paris" in (whole.message.content or "")
    parts = list(client.chat(model=MODEL, messages=[QUESTION], options=EXACT, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].done
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", whole.eval_count)


def test_a_text(client: ollama.Client) -> None:
    answer = client.generate(model=MODEL, prompt=QUESTION["content"], options=EXACT)
    assert "Paris" in (answer.response or "")
    raw = client.generate(model=MODEL, prompt="The capital of France is", raw=True, options=EXACT | {"num_predict": 5})
    assert "Paris" in (raw.response or "")


def test_what_models_there_are(client: ollama.Client) -> None:
    (listed,) = client.list().models
    (running,) = client.ps().models
    assert listed.model == running.model == MODEL
    shown = client.show(MODEL)
    assert shown.modelinfo
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.capabilities
    assert "completion" in shown.capabilities


def test_errors_are_the_clients_own(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as missing:
        client.chat(model="llama9", messages=[QUESTION])
    assert missing.value.status_code == 404
    assert MODEL in missing.value.error
    with pytest.raises(ollama.ResponseError) as long:
        list(client.chat(model=MODEL, messages=[{"role": "user", "content": "word " * 9000}], stream=True))
    assert "maximum context length" in long.value.error
