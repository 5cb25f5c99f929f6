"""Embeddings over HTTP: a real server with MiniLM, beside a model that generates text and a cross-encoder."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tests.api.test_disconnect import metric, until
from tests.conftest import Server, StartServer
from tests.reference_encoder import ReferenceEncoder

MODEL = "all-MiniLM-L6-v2"
SENTENCES = [
    "A gateway speaks to many clients.",
    "x",
    "Das Pferd frißt keinen Gurkensalat; les œufs 🥚, 猫 и собака.",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "All work and no play makes Jack a dull boy. " * 8,
]


@pytest.fixture
async def client(encoder_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=encoder_server.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(minilm_folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


async def answer(client: httpx.AsyncClient, texts: Any, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": texts} | fields)
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


async def embed(client: httpx.AsyncClient, texts: Any, **fields: Any) -> NDArray[np.float64]:
    data = (await answer(client, texts, **fields))["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return np.array([entry["embedding"] for entry in data])


async def test_vectors_are_those_that_numpy_computes(
    client: httpx.AsyncClient, minilm_folder: Path, tokenizer: Tokenizer
) -> None:
    reference = ReferenceEncoder(minilm_folder)
    vectors = await embed(client, SENTENCES)
    for sentence, vector in zip(SENTENCES, vectors, strict=True):
        encoding = tokenizer.encode(sentence)
        mean = reference.hidden(encoding.ids, encoding.type_ids).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-4)


async def test_a_batch_is_its_texts_one_by_one(client: httpx.AsyncClient) -> None:
    """In their order, whatever order they are computed in."""
    texts = [f"{'word ' * (number * 7 % 20)}number {number}" for number in range(20)]
    together = await embed(client, texts)
    some = [0, 13, 19]
    alone = np.concatenate([await embed(client, texts[index]) for index in some])
    np.testing.assert_allclose(together[some], alone, atol=1e-5)
    assert len(np.unique(together.round(4), axis=0)) == 20


async def test_base64_is_the_same_numbers(client: httpx.AsyncClient) -> None:
    numbers = await embed(client, SENTENCES)
    coded = (await answer(client, SENTENCES, encoding_format="base64"))["data"]
    decoded = np.array([np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in coded])
    assert decoded.shape == (5, 384)
    assert (decoded == numbers.astype(np.float32)).all()


async def test_token_ids_are_taken_as_they_are(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    ids = [encoding.ids for encoding in tokenizer.encode_batch(SENTENCES)]
    np.testing.assert_allclose(await embed(client, ids), await embed(client, SENTENCES), atol=1e-5)
    np.testing.assert_allclose(await embed(client, ids[0]), await embed(client, SENTENCES[0]), atol=1e-5)


async def test_fewer_dimensions_are_the_first_ones_at_length_one(client: httpx.AsyncClient) -> None:
    whole = await embed(client, SENTENCES)
    short = await embed(client, SENTENCES, dimensions=100)
    expected = whole[:, :100] / np.linalg.norm(whole[:, :100], axis=1, keepdims=True)
    np.testing.assert_allclose(short, expected, atol=1e-6)


async def test_usage_counts_tokens_and_user_is_no_surprise(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    response = await client.post("/embeddings", json={"model": MODEL, "input": SENTENCES, "user": "me", "invented": 1})
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(SENTENCES))
    content = response.json()
    assert content["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (content["object"], content["model"], content["data"][0]["object"]) == ("list", MODEL, "embedding")
    assert response.headers["warning"].endswith('"ignored parameters: invented"')


async def test_a_long_text_is_refused_unless_it_may_be_cut(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    long = "one two three four five six seven eight nine ten " * 40
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": ["short", long]})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input[1]")
    assert "maximum context length is 256 tokens, but input[1] has 402 tokens" in error["message"]
    ids = tokenizer.encode(long).ids
    for fields, kept in (
        ({"truncate": True}, 256),
        ({"truncate_prompt_tokens": -1}, 256),
        ({"truncate_prompt_tokens": 1000}, 256),
        ({"truncate_prompt_tokens": 20}, 20),
    ):
        beginning = [*ids[: kept - 1], ids[-1]]  # the text's, and the token that ends every text
        np.testing.assert_allclose(await embed(client, long, **fields), await embed(client, beginning), atol=1e-5)
        assert (await answer(client, long, **fields))["usage"]["prompt_tokens"] == kept
    np.testing.assert_allclose(await embed(client, ids, truncate=True), await embed(client, ids[:256]), atol=1e-5)
    assert (await client.post("/v1/embeddings", json={"model": MODEL, "input": ids})).status_code == 400


async def test_a_text_that_no_context_holds_costs_no_more_than_its_beginning(client: httpx.AsyncClient) -> None:
    """The rest would take a minute and gigabytes to put into tokens."""
    long = "word " * 6_000_000
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": ["short", long]}, timeout=20)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "input[1]")
    assert "has at least" in error["message"]
    cut = await embed(client, long, truncate=True)
    np.testing.assert_allclose(cut, await embed(client, "word " * 254), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": ["a", [1]]}, "input[1]"),
        ({"input": [1.5]}, "input[0]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": None}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [101, 30522, 102]}, "input"),
        ({"dimensions": 385}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"model": "tiny"}, "model"),
        ({"model": "cross-encoder"}, "model"),
    ],
    ids=str,
)
async def test_bad_input_is_named(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "text"} | fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error


async def test_the_wrong_kind_of_model_is_told_with_the_right_ones(client: httpx.AsyncClient) -> None:
    embedding = await client.post("/v1/embeddings", json={"model": "tiny", "input": "text"})
    message = embedding.json()["error"]["message"]
    assert message == "tiny generates text and has no embeddings. Those that have: all-MiniLM-L6-v2, cross-encoder."
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    chat = await client.post("/v1/chat/completions", json=body)
    assert (chat.status_code, chat.json()["error"]["param"]) == (400, "model")
    assert chat.json()["error"]["message"] == "all-MiniLM-L6-v2 generates no text: it is for embeddings."


async def test_models_tell_what_they_are_for(client: httpx.AsyncClient) -> None:
    models = {model["id"]: model for model in (await client.get("/v1/models")).json()["data"]}
    assert {name: model["purpose"] for name, model in models.items()} == {
        "tiny": "text",
        MODEL: "embeddings",
        "cross-encoder": "ranking",
    }
    assert models[MODEL]["context_length"] == 256
    assert models[MODEL]["meta"] == {"n_ctx": 256, "n_embd": 384}
    assert models["cross-encoder"]["meta"] == {"n_ctx": 80}


async def test_metrics_count_requests_and_tokens(client: httpx.AsyncClient) -> None:
    names = [f'mlx_gateway_encoder_{what}_total{{model_name="{MODEL}"}}' for what in ("requests", "tokens")]
    before = [await metric(client, name) for name in names]
    tokens = (await answer(client, SENTENCES))["usage"]["total_tokens"]
    assert [await metric(client, name) for name in names] == [before[0] + 1, before[1] + tokens]
    assert await metric(client, f'mlx_gateway_model_weight_bytes{{model_name="{MODEL}"}}') > 9e7
    assert await metric(client, 'mlx_gateway_memory_bytes{owner="weights"}') > 9e7


async def test_leaving_stops_the_work(client: httpx.AsyncClient) -> None:
    """The request is minutes of work, one text at a time."""
    leaving = asyncio.create_task(answer(client, ["word " * 250] * 2000))
    await until(lambda: _computing(client, 1))
    leaving.cancel()
    await until(lambda: _computing(client, 0))
    assert len(await embed(client, SENTENCES)) == 5


async def test_running_answers_go_on_beside_embeddings(client: httpx.AsyncClient) -> None:
    """And say the same: their tokens are computed between the steps of a batch, which would take minutes."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}
    alone = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]["content"]
    embedding = asyncio.create_task(embed(client, ["word " * 60] * 2000))
    await until(lambda: _computing(client, 1))
    together = (await client.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]["content"]
    assert together == alone
    assert not embedding.done()
    embedding.cancel()
    await until(lambda: _computing(client, 0))


async def _computing(client: httpx.AsyncClient, requests: int) -> bool:
    return await metric(client, f'mlx_gateway_encoder_requests_running{{model_name="{MODEL}"}}') == requests


async def test_a_lower_limit_can_be_set(start_server: StartServer, minilm_folder: Path) -> None:
    server = start_server("--model", str(minilm_folder), MODEL_ID="mini", MODEL_CONTEXT_TOKENS="10")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        (model,) = (await client.get("/v1/models")).json()["data"]
        assert (model["id"], model["context_length"]) == ("mini", 10)
        response = await client.post("/v1/embeddings", json={"model": "mini", "input": "word " * 9})
        assert "maximum context length is 10 tokens" in response.json()["error"]["message"]


async def test_texts_stay_out_of_the_log(client: httpx.AsyncClient, encoder_server: Server) -> None:
    await embed(client, "xylophone-7391")
    await client.post("/v1/embeddings", json={"model": MODEL, "input": "xylophone-7391 " * 400})
    assert "xylophone" not in encoder_server.log


async def test_ollamas_words_for_the_same(client: httpx.AsyncClient) -> None:
    expected = await embed(client, SENTENCES[:2])
    answered = await client.post(
        "/api/embed", json={"model": f"{MODEL}:latest", "input": SENTENCES[:2], "keep_alive": 5}
    )
    assert np.allclose(answered.json()["embeddings"], expected, atol=1e-6)
    assert answered.json()["prompt_eval_count"] > 2
    assert answered.headers["warning"] == '299 mlx-gateway "ignored parameters: keep_alive"'
    one = await client.post("/api/embed", json={"model": MODEL, "input": SENTENCES[0], "dimensions": 8})
    assert np.array(one.json()["embeddings"]).shape == (1, 8)
    old = await client.post("/api/embeddings", json={"model": MODEL, "prompt": SENTENCES[1]})
    assert np.allclose(old.json()["embedding"], expected[1], atol=1e-6)
    long = {"model": MODEL, "input": "word " * 4000}
    assert (await client.post("/api/embed", json=long)).status_code == 200
    refused = await client.post("/api/embed", json=long | {"truncate": False})
    assert refused.status_code == 400
    assert "tokens" in refused.json()["error"]
    assert (await client.post("/api/embed", json={"model": MODEL, "input": []})).status_code == 400
    many = await client.post("/api/embed", json={"model": MODEL, "input": ["x"] * 2049})
    assert many.status_code == 400
    assert "at most 2048" in many.json()["error"]


async def test_neighbours_lists_tell_what_a_model_is_for(client: httpx.AsyncClient) -> None:
    shown = (await client.post("/api/show", json={"model": MODEL})).json()
    assert shown["capabilities"] == ["embedding"]
    assert shown["model_info"]["bert.context_length"] == 256
    types = {model["id"]: model["type"] for model in (await client.get("/api/v0/models")).json()["data"]}
    assert types == {MODEL: "embeddings", "cross-encoder": "embeddings", "tiny": "llm"}
    kinds = {
        model["model_name"]: model["model_info"]["mode"] for model in (await client.get("/model/info")).json()["data"]
    }
    assert kinds == {MODEL: "embedding", "cross-encoder": "rerank", "tiny": "chat"}
