"""Completions and fill-in-the-middle over HTTP: a real server with the tiny model."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from tests.conftest import Server, running_server
from tests.fim_model import write_fim_model


@pytest.fixture(scope="module")
def fim_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("models") / "filler"
    write_fim_model(folder, of=tiny_folder)
    return folder


@pytest.fixture(scope="module")
def fim_server(demo_store: Path, fim_folder: Path) -> Iterator[Server]:
    with running_server(demo_store, "--model", str(fim_folder)) as server:
        yield server


@pytest.fixture
async def fim_client(fim_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=fim_server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_folder / "tokenizer.json"))


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "Hello, my name is", "temperature": 0, "max_tokens": 6} | fields


async def complete(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/completions", json=body(**fields))
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


async def text(client: httpx.AsyncClient, **fields: Any) -> str:
    content: str = (await complete(client, **fields))["choices"][0]["text"]
    return content


async def streamed(client: httpx.AsyncClient, url: str, content: dict[str, Any]) -> list[dict[str, Any]]:
    response = await client.post(url, json=content | {"stream": True})
    assert response.status_code == 200, response.text
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(line) for line in data[:-1]]


async def test_a_whole_completion(client: httpx.AsyncClient) -> None:
    content = await complete(client)
    (choice,) = content["choices"]
    assert content["object"] == "text_completion"
    assert content["model"] == "tiny"
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    assert choice["text"]
    assert content["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize("path", ["/v1/completions", "/completions"])
async def test_sixteen_tokens_unless_it_says_otherwise(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json=body(max_tokens=None))
    assert answer.json()["usage"]["completion_tokens"] == 16


async def test_a_stream_says_the_same(client: httpx.AsyncClient) -> None:
    whole = await complete(client)
    chunks = await streamed(client, "/v1/completions", body(stream_options={"include_usage": True}))
    assert "".join(c["text"] for chunk in chunks for c in chunk["choices"]) == whole["choices"][0]["text"]
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]] == ["length"]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 6)
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert all("usage" not in chunk for chunk in await streamed(client, "/v1/completions", body()))


async def test_a_list_of_prompts_is_served_prompt_by_prompt(client: httpx.AsyncClient) -> None:
    """`{"prompt": ["Hello", "World"]}` ends the process of mlx_lm.server."""
    alone = [await text(client, prompt=prompt) for prompt in ("Hello", "World")]
    content = await complete(client, prompt=["Hello", "World"])
    assert [(choice["index"], choice["text"]) for choice in content["choices"]] == list(enumerate(alone))
    assert content["usage"]["completion_tokens"] == 12
    twice = await complete(client, prompt=["Hello", "World"], n=2)
    assert [choice["text"] for choice in twice["choices"]] == [alone[0]] * 2 + [alone[1]] * 2
    parts: dict[int, str] = {}
    for chunk in await streamed(client, "/v1/completions", body(prompt=["Hello", "World"])):
        for choice in chunk["choices"]:
            parts[choice["index"]] = parts.get(choice["index"], "") + choice["text"]
    assert parts == dict(enumerate(alone))


async def test_token_ids_are_the_text_they_stand_for(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode(prompt).ids for prompt in ("Hello", "Good morning, World")]
    said = [await text(client, prompt=prompt) for prompt in ("Hello", "Good morning, World")]
    assert await text(client, prompt=ids[1]) == said[1]
    content = await complete(client, prompt=ids)
    assert [choice["text"] for choice in content["choices"]] == said


async def test_echo_begins_with_the_prompt(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    said = await text(client, prompt="Hello, World")
    for prompt in ("Hello, World", tokenizer.encode("Hello, World").ids):
        assert await text(client, prompt=prompt, echo=True) == "Hello, World" + said
    chunks = await streamed(client, "/v1/completions", body(prompt=["Hello", "World"], echo=True))
    firsts = {c["index"]: c["text"] for chunk in reversed(chunks) for c in chunk["choices"]}
    assert firsts == {0: "Hello", 1: "World"}


async def test_echo_has_the_log_probabilities_of_the_prompt_too(
    client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    prompt = "The quick brown fox jumps over the lazy dog, twice on Sundays. " * 12
    content = await complete(client, prompt=prompt, echo=True, logprobs=2, n=2)
    count = len(tokenizer.encode(prompt).ids)
    for choice in content["choices"]:
        assert choice["text"].startswith(prompt)
        logprobs = choice["logprobs"]
        assert [len(entries) for entries in logprobs.values()] == [count + 6] * 4
        assert "".join(logprobs["tokens"][:count]) == prompt
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        for token, logprob, top in list(
            zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
        )[1:]:
            assert top[token] == logprob <= max(top.values()) < 0
        for token, offset in zip(logprobs["tokens"][:count], logprobs["text_offset"], strict=False):
            assert prompt[offset:].startswith(token)

    # The prompt is in the cache by now, and nothing of its answer changes.
    ids = tokenizer.encode(prompt).ids
    again = await complete(client, prompt=ids, echo=True, logprobs=2)
    assert again["choices"][0]["logprobs"]["token_logprobs"][1:] == pytest.approx(
        content["choices"][0]["logprobs"]["token_logprobs"][1:], abs=1e-4
    )
    chunks = await streamed(client, "/v1/completions", body(prompt=ids, echo=True, logprobs=2))
    parts = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
    assert [token for part in parts for token in part["tokens"]] == again["choices"][0]["logprobs"]["tokens"]


async def test_logprobs_in_their_old_shape(client: httpx.AsyncClient) -> None:
    content = await complete(client, logprobs=2, max_tokens=12)
    choice = content["choices"][0]
    logprobs = choice["logprobs"]
    assert [len(entries) for entries in logprobs.values()] == [12] * 4
    for token, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == logprob == max(top.values())  # greedy
        assert len(top) == 2
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert token.startswith("bytes:") or choice["text"][offset:].startswith(token)
    chunks = await streamed(client, "/v1/completions", body(logprobs=2, max_tokens=12))
    parts = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
    for name, entries in logprobs.items():
        assert [entry for part in parts for entry in part[name]] == entries


async def test_a_stop_string_and_a_grammar(client: httpx.AsyncClient) -> None:
    full = await text(client, max_tokens=20)
    stop = full[len(full) // 2 : len(full) // 2 + 3]
    stopped = (await complete(client, max_tokens=20, stop=[stop, "never appears"]))["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == (full[: full.index(stop)], "stop")
    assert await text(client, max_tokens=20, guided_choice=["yes", "no"]) in ("yes", "no")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": ["Hello", 1]}, "prompt", "invalid_value"),
        ({"prompt": ["Hello", [1]]}, "prompt", "invalid_value"),
        ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
        ({"prompt": [49152]}, "prompt", "invalid_value"),
        ({"prompt": ["Hello"] * 129}, "prompt", "invalid_value"),
        ({"prompt": "word " * 600}, "prompt", "context_length_exceeded"),
        ({"prompt": ["Hello", "word " * 600]}, "prompt", "context_length_exceeded"),
        ({"best_of": 3, "n": 2}, "best_of", "unsupported_parameter"),
        ({"suffix": "the end"}, "suffix", "unsupported_parameter"),
        ({"suffix": "the end", "prompt": [5, 6]}, "suffix", "invalid_value"),
        ({"suffix": "the end", "echo": True}, "echo", "unsupported_parameter"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_cannot_be_served_is_refused_before_the_stream(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, code: str, stream: bool
) -> None:
    response = await client.post("/v1/completions", json=body(**fields, stream=stream))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


async def test_best_of_what_there_is(client: httpx.AsyncClient) -> None:
    assert len((await complete(client, best_of=2, n=2))["choices"]) == 2
    assert len((await complete(client, best_of=1, n=2))["choices"]) == 2


async def test_what_has_no_effect_is_named_in_a_header(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", json=body(user="me"))
    assert response.headers["warning"] == '299 mlx-gateway "ignored parameters: user"'


# --- gaps ----------------------------------------------------------------------------------------------------


async def test_a_suffix_is_put_with_the_models_own_marks(fim_client: httpx.AsyncClient) -> None:
    gap = {"model": "filler", "prompt": "def one():\n", "suffix": "\n    return x"}
    by_hand = "<|fim_prefix|>def one():\n<|fim_suffix|>\n    return x<|fim_middle|>"
    said = await complete(fim_client, **gap)
    rendered = await complete(fim_client, model="filler", prompt=by_hand)
    assert said["choices"][0]["text"] == rendered["choices"][0]["text"]
    assert said["usage"]["prompt_tokens"] == rendered["usage"]["prompt_tokens"]
    plain = await complete(fim_client, model="filler", prompt="def one():\n", suffix="")
    assert plain["usage"]["prompt_tokens"] < said["usage"]["prompt_tokens"]


async def test_a_mark_ends_what_fills_a_gap(fim_client: httpx.AsyncClient) -> None:
    """Here token 4, which is `<|fim_suffix|>`; in a plain text the same token ends nothing."""
    fields: dict[str, Any] = {"model": "filler", "prompt": "one", "logit_bias": {"4": 100}}
    gap = (await complete(fim_client, **fields, suffix="two"))["choices"][0]
    assert (gap["text"], gap["finish_reason"]) == ("", "stop")
    assert (await complete(fim_client, **fields))["choices"][0]["finish_reason"] == "length"


async def test_mistrals_form(fim_client: httpx.AsyncClient) -> None:
    gap = {"model": "filler", "prompt": "def one():\n", "suffix": "\n    return x", "temperature": 0, "max_tokens": 6}
    said = (await complete(fim_client, **gap))["choices"][0]["text"]
    whole = (await fim_client.post("/v1/fim/completions", json=gap)).json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == said
    assert whole["usage"]["completion_tokens"] == 6
    chunks = await streamed(fim_client, "/v1/fim/completions", gap)
    assert "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"]) == said
    assert all("usage" not in chunk for chunk in chunks)
    seeded = [
        (await fim_client.post("/v1/fim/completions", json=gap | {"temperature": 1, "random_seed": seed})).json()
        for seed in (1, 1, 2)
    ]
    texts = [answer["choices"][0]["message"]["content"] for answer in seeded]
    assert texts[0] == texts[1] != texts[2]
    refused = await fim_client.post("/v1/fim/completions", json=gap | {"min_tokens": 3})
    assert refused.json()["error"]["param"] == "min_tokens"


async def test_gaps_are_filled_until_the_context_ends(fim_client: httpx.AsyncClient) -> None:
    gap = {"model": "filler", "prompt": "one", "suffix": "two", "temperature": 0, "logit_bias": {"300": 100}}
    whole = (await fim_client.post("/v1/fim/completions", json=gap)).json()
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["total_tokens"] == 512


async def test_a_model_that_fills_no_gaps_says_so(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/fim/completions", json={"model": "tiny", "prompt": "one", "suffix": "two"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("suffix", "unsupported_parameter")
    assert "fill-in-the-middle" in error["message"]
