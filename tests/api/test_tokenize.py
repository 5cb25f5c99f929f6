"""Texts to tokens and back, in vLLM's shapes."""

from typing import Any

import httpx
import pytest

HELLO = [{"role": "user", "content": "Hello"}]


async def tokenize(client: httpx.AsyncClient, path: str = "/v1/tokenize", **fields: Any) -> dict[str, Any]:
    response = await client.post(path, json={"model": "tiny"} | fields)
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


@pytest.mark.parametrize("path", ["/v1/tokenize", "/tokenize"])
async def test_a_text_and_back(client: httpx.AsyncClient, path: str) -> None:
    found = await tokenize(client, path, prompt="Good morning,\n  World! ✓", return_token_strs=True)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 512
    back = await client.post(path.replace("tokenize", "detokenize"), json={"model": "tiny", "tokens": found["tokens"]})
    assert back.json() == {"prompt": "Good morning,\n  World! ✓"}
    bare = await tokenize(client, path, prompt="Good morning", add_special_tokens=False)
    assert (bare["token_strs"], bare["count"]) == (None, 2)


async def test_a_conversation_counts_as_its_chat_completion_does(client: httpx.AsyncClient) -> None:
    found = await tokenize(client, messages=HELLO)
    answer = await client.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "max_tokens": 1})
    assert found["count"] == answer.json()["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "fields", "ignored"),
    [
        ("/v1/tokenize", {"prompt": "x", "messages": HELLO, "invented": 1}, "invented, messages"),
        ("/v1/tokenize", {"messages": HELLO, "temperature": 0, "invented": 1}, "invented"),
        ("/v1/detokenize", {"tokens": [5], "invented": 1}, "invented"),
        ("/api/show", {"verbose": True}, "verbose"),
    ],
)
async def test_what_has_no_effect_is_named(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], ignored: str
) -> None:
    response = await client.post(path, json={"model": "tiny"} | fields)
    assert response.status_code == 200
    assert response.headers["warning"].endswith(f'"ignored parameters: {ignored}"')


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("/v1/tokenize", {}, 400, "messages"),
        ("/v1/tokenize", {"prompt": "x", "model": "none"}, 404, "model"),
        ("/v1/tokenize", {"messages": HELLO, "add_generation_prompt": False}, 400, "add_generation_prompt"),
        ("/v1/detokenize", {}, 400, "tokens"),
        ("/v1/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/v1/detokenize", {"tokens": [49152]}, 400, "tokens"),
        ("/v1/detokenize", {"tokens": [5] * 131_073}, 400, "tokens"),
    ],
)
async def test_what_is_wrong(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], status: int, param: str
) -> None:
    response = await client.post(path, json={"model": "tiny"} | fields)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
