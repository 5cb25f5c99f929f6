"""The official client against the demo model, as a new user would."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from tests.conftest import Server

MODEL = "SmolLM2-135M-Instruct"
QUESTION: ChatCompletionUserMessageParam = {
    "role": "user",
    "content": "What is the capital of France? Answer in one sentence.",
}


@pytest.fixture
def client(demo_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(demo_server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{demo_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_demo_model_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=[QUESTION], temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_the_same_text(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=[QUESTION], temperature=0)
    text, usages = "", []
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=[QUESTION],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usages += [chunk.usage] if chunk.usage else []
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert usages == [whole.usage]


def test_models_are_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL).model_extra == {
        "context_length": 8192,
        "max_model_len": 8192,
        "meta": {"n_ctx": 8192},
        "purpose": "text",
    }


def test_logprobs_are_typed_as_the_client_expects(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[QUESTION],
        temperature=0,
        max_completion_tokens=8,
        logprobs=True,
        top_logprobs=2,
        n=2,
    )
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert choice.logprobs
        assert choice.logprobs.content
        assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
        assert all(0 < math.exp(entry.logprob) <= 1 for entry in choice.logprobs.content)


def test_errors_are_the_clients_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=[QUESTION])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 9000}], stream=True)
    assert long.value.code == "context_length_exceeded"


async def test_requests_join_a_running_batch(async_client: openai.AsyncOpenAI) -> None:
    """Short answers that start during a long one end before it, with the text they have alone."""

    async def answer(max_tokens: int) -> str:
        completion = await async_client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Write a story about a lighthouse."}],
            temperature=0,
            max_tokens=max_tokens,
        )
        return completion.choices[0].message.content or ""

    alone = await answer(8)
    long = asyncio.create_task(answer(120))
    together = await asyncio.gather(answer(8), answer(8), answer(8))
    assert not long.done()
    assert set(together) == {alone}
    assert (await long).startswith(alone)


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(
        model=MODEL,
        prompt=["The capital of France is", "The capital of Italy is"],
        temperature=0,
        max_tokens=5,
        logprobs=1,
    )
    assert "Paris" in whole.choices[0].text
    assert "Rome" in whole.choices[1].text
    assert whole.choices[0].logprobs
    assert "".join(whole.choices[0].logprobs.tokens or []) == whole.choices[0].text
    parts = ["", ""]
    for chunk in client.completions.create(
        model=MODEL,
        prompt=["The capital of France is", "The capital of Italy is"],
        temperature=0,
        max_tokens=5,
        stream=True,
    ):
        for choice in chunk.choices:
            parts[choice.index] += choice.text
    assert parts == [choice.text for choice in whole.choices]
