import json

import httpx
import pytest

from gateway.observability.client_family import client_family
from gateway.observability.request_record import RequestRecord
from tests.conftest import Server


@pytest.mark.parametrize(
    ("complete", "status", "error", "outcome"),
    [
        (True, 200, "", "finished"),
        (True, 200, "GenerationFailed", "failed"),
        (True, 400, "InvalidRequest", "refused"),
        (True, 503, "ModelUnavailable", "refused"),
        (True, 500, "UnexpectedError", "failed"),
        (False, 200, "", "cancelled"),
    ],
)
def test_every_end_has_an_outcome(complete: bool, status: int, error: str, outcome: str) -> None:
    record = RequestRecord(complete=complete, error=error)
    assert record.end("POST", "/", status, "", "").outcome == outcome
    assert record.ended


def test_the_closing_line_tells_tokens_and_client(tiny_server: Server) -> None:
    body = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "A secret zebra."}]}
    headers = {"user-agent": "claude-cli/1.0 (external)"}
    response = httpx.post(f"{tiny_server.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    line = json.loads(tiny_server.wait_for_log(f'finished","request":"{response.headers["x-request-id"]}"'))
    usage = response.json()["usage"]
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["generated_tokens"] == usage["completion_tokens"] == 4
    assert line["model"] == "tiny"
    assert line["client"] == "Claude Code"
    assert line["finish_reason"] == "length"
    assert 0 < line["first_token_seconds"] <= line["seconds"]
    assert "zebra" not in tiny_server.log


@pytest.mark.parametrize(("agent", "family"), [("OpenAI/Python 2.1", "openai"), ("", ""), ("=1+1", "")])
def test_a_client_is_a_plain_name(agent: str, family: str) -> None:
    assert client_family(agent) == family
