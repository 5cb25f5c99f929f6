"""Chat completions over HTTP: a real server with the tiny model."""

import asyncio
import math
from typing import Any

import httpx
import pytest

from tests.sse import read_stream

HELLO = [{"role": "user", "content": "Hello"}]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 6} | fields


async def answer(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json=body(**fields))
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


async def text(client: httpx.AsyncClient, **fields: Any) -> str:
    content: str = (await answer(client, **fields))["choices"][0]["message"]["content"]
    return content


async def test_a_whole_answer(client: httpx.AsyncClient) -> None:
    content = await answer(client)
    (choice,) = content["choices"]
    assert content["object"] == "chat.completion"
    assert content["model"] == "tiny"
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    usage = content["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6


async def test_a_stream_says_the_same_and_keeps_to_the_protocol(client: httpx.AsyncClient) -> None:
    whole = await answer(client)
    stream = await read_stream(client, body(stream_options={"include_usage": True}))
    assert stream.first == ": keep-alive"
    assert stream.text == whole["choices"][0]["message"]["content"]
    assert stream.chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["finish_reason"] for chunk in stream.chunks for c in chunk["choices"] if c["finish_reason"]] == ["length"]
    assert stream.chunks[-1]["choices"] == []
    assert stream.chunks[-1]["usage"] == whole["usage"]
    assert all("usage" not in chunk for chunk in stream.chunks[:-1])
    assert len({chunk["id"] for chunk in stream.chunks}) == 1
    assert stream.ended_with_done


async def test_usage_is_sent_only_when_asked_for(client: httpx.AsyncClient) -> None:
    stream = await read_stream(client, body())
    assert all("usage" not in chunk for chunk in stream.chunks)
    assert stream.chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
async def test_both_paths_answer(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, json=body())).status_code == 200


async def test_a_stop_string_ends_the_answer_before_it(client: httpx.AsyncClient) -> None:
    full = await text(client, max_tokens=20)
    stop = full[len(full) // 2 : len(full) // 2 + 3]
    content = await answer(client, max_tokens=20, stop=[stop, "never appears"])
    assert content["choices"][0]["finish_reason"] == "stop"
    assert content["choices"][0]["message"]["content"] == full[: full.index(stop)]
    stream = await read_stream(client, body(max_tokens=20, stop=stop))
    assert stream.text == full[: full.index(stop)]


async def test_the_answer_ends_where_the_context_does(client: httpx.AsyncClient) -> None:
    content = await answer(client, messages=[{"role": "user", "content": "word " * 440}], max_tokens=None)
    assert content["choices"][0]["finish_reason"] == "length"
    assert content["usage"]["total_tokens"] == 512


async def test_seeds_are_reproducible_beside_others(client: httpx.AsyncClient) -> None:
    async def seeded(seed: int | None) -> str:
        return await text(client, temperature=1, seed=seed, max_tokens=12)

    alone = await seeded(7)
    crowd = await asyncio.gather(seeded(7), seeded(8), seeded(7), seeded(None), seeded(None))
    assert crowd[0] == crowd[2] == alone
    assert len(set(crowd)) == 4


async def test_n_choices_have_their_own_seeds(client: httpx.AsyncClient) -> None:
    content = await answer(client, temperature=1, seed=7, n=3, max_tokens=12)
    texts = [choice["message"]["content"] for choice in content["choices"]]
    assert [choice["index"] for choice in content["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts[0] == await text(client, temperature=1, seed=7, max_tokens=12)
    assert content["usage"]["completion_tokens"] == 36
    stream = await read_stream(client, body(temperature=1, seed=7, n=3, max_tokens=12))
    streamed = ["", "", ""]
    for chunk in stream.chunks:
        for choice in chunk["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == texts


async def test_a_choice_that_meets_its_stop_string_ends_alone(client: httpx.AsyncClient) -> None:
    settings = {"temperature": 1, "seed": 7, "n": 2, "max_tokens": 30}
    free = [choice["message"]["content"] for choice in (await answer(client, **settings))["choices"]]
    stop = next(free[0][i : i + 4] for i in range(8, len(free[0])) if free[0][i : i + 4] not in free[1])
    stopped, other = (await answer(client, **settings, stop=stop))["choices"]
    assert (stopped["finish_reason"], other["finish_reason"]) == ("stop", "length")
    assert stopped["message"]["content"] == free[0][: free[0].index(stop)]
    assert other["message"]["content"] == free[1]
    assert (await client.get("/metrics")).text.count('num_requests_running{model_name="tiny"} 0.0') == 1


async def test_logprobs_are_probabilities_of_the_tokens(client: httpx.AsyncClient) -> None:
    content = await answer(client, logprobs=True, top_logprobs=3)
    entries = content["choices"][0]["logprobs"]["content"]
    assert len(entries) == 6
    for entry in entries:
        top = [other["logprob"] for other in entry["top_logprobs"]]
        assert len(top) == 3
        assert entry["logprob"] == max(top) == top[0]  # greedy
        assert sum(math.exp(value) for value in top) <= 1.0001
    utf8 = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert utf8.decode(errors="replace") == content["choices"][0]["message"]["content"]
    stream = await read_stream(client, body(logprobs=True, top_logprobs=3))
    streamed = [
        e for c in stream.chunks for choice in c["choices"] for e in (choice["logprobs"] or {}).get("content", [])
    ]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in entries]


REPEATING = {"logit_bias": {"300": 20}}
"""One token for ever, until penalties outweigh the bias."""
WIDE = {"temperature": 2, "seed": 3}


@pytest.mark.parametrize(
    ("base", "setting"),
    [
        ({}, {"logit_bias": {"300": 20}}),
        (REPEATING, {"presence_penalty": 2, "frequency_penalty": 2}),
        (REPEATING, {"frequency_penalty": 2}),
        (REPEATING, {"repetition_penalty": 5}),
        ({}, {"temperature": 2}),
        (WIDE, {"seed": 4}),
        (WIDE, {"top_p": 0.3}),
        (WIDE, {"top_k": 2}),
        (WIDE, {"min_p": 0.3}),
    ],
    ids=str,
)
async def test_every_sampling_setting_changes_the_answer(
    client: httpx.AsyncClient, base: dict[str, Any], setting: dict[str, Any]
) -> None:
    assert await text(client, max_tokens=30, **base) != await text(client, max_tokens=30, **base | setting)


async def test_logprobs_are_the_models_own_before_any_setting(client: httpx.AsyncClient) -> None:
    """The alternatives to the first token depend on the prompt alone."""
    settings: list[dict[str, Any]] = [{}, {"temperature": 2, "seed": 5}, {"logit_bias": {"300": 50}}, {"top_k": 1}]
    tops = []
    for fields in settings:
        content = await answer(client, logprobs=True, top_logprobs=5, **fields)
        first = content["choices"][0]["logprobs"]["content"][0]
        tops.append({other["token"]: other["logprob"] for other in first["top_logprobs"]})
    assert all(top == pytest.approx(tops[0], abs=1e-4) for top in tops)


async def test_asked_for_logprobs_are_a_list_even_without_tokens(client: httpx.AsyncClient) -> None:
    content = await answer(client, logprobs=True, logit_bias={"2": 100})
    assert content["choices"][0]["logprobs"]["content"] == []
    assert content["choices"][0]["finish_reason"] == "stop"


async def test_a_bias_forces_a_token(client: httpx.AsyncClient) -> None:
    content = await answer(client, logit_bias={"300": 100}, logprobs=True)
    assert len({entry["token"] for entry in content["choices"][0]["logprobs"]["content"]}) == 1


async def test_a_crowd_of_requests_all_end(client: httpx.AsyncClient) -> None:
    """More than fit into the batch: the rest wait, with keep-alives, and nobody is refused."""
    streams = await asyncio.gather(*(read_stream(client, body(max_tokens=10)) for _ in range(40)))
    assert len({stream.text for stream in streams}) == 1
    assert all(stream.ended_with_done and not stream.errors for stream in streams)


async def test_what_has_no_effect_is_named_in_a_header(client: httpx.AsyncClient) -> None:
    for stream in (False, True):
        known = await client.post("/v1/chat/completions", json=body(stream=stream, top_k=None, store=None))
        assert "warning" not in known.headers
        odd = body(stream=stream, store=True) | {'odd"\r\nname': 1}
        told = await client.post("/v1/chat/completions", json=odd)
        assert told.headers["warning"] == '299 mlx-gateway "ignored parameters: odd___name, store"'
