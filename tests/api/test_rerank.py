"""Reranking over HTTP: with a cross-encoder, and with a model that only embeds."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.conftest import Server, running_server
from tests.reference_encoder import ReferenceEncoder
from tests.tiny_encoder import VOCABULARY, write_tiny_encoder

QUERY = "How do I open a file in Python?"
DOCUMENTS = [
    "The weather will be sunny with a chance of rain.",
    "Use the built-in function open() to read or write files in Python.",
    "",
    "Cats sleep most of the day.",
]


@pytest.fixture
async def client(encoder_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=encoder_server.url, timeout=120) as client:
        yield client


async def rerank(client: httpx.AsyncClient, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "query": QUERY, "documents": DOCUMENTS} | fields
    return await client.post("/v1/rerank", json=body)


async def test_a_cross_encoders_scores_are_those_that_numpy_computes(
    client: httpx.AsyncClient, cross_encoder_folder: Path
) -> None:
    content = (await rerank(client, "cross-encoder")).json()
    tokenizer = Tokenizer.from_file(str(cross_encoder_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    pairs = [tokenizer.encode(QUERY, document) for document in DOCUMENTS]
    reference = ReferenceEncoder(cross_encoder_folder)
    expected = np.array([reference.score(pair.ids, pair.type_ids) for pair in pairs])
    results = content["results"]
    assert [result["index"] for result in results] == np.argsort(-expected).tolist()
    scores = [result["relevance_score"] for result in results]
    np.testing.assert_allclose(scores, np.sort(expected)[::-1], atol=1e-4)
    assert content["meta"] == {"method": "cross_encoder", "cut_documents": 0}
    assert content["usage"]["total_tokens"] == sum(len(pair.ids) for pair in pairs)


async def test_answers_hold_what_clients_of_three_kinds_look_for(client: httpx.AsyncClient) -> None:
    response = await rerank(client, "cross-encoder")
    content = response.json()
    assert content["data"] == content["results"]
    assert content["object"] == "list"
    assert content["model"] == "cross-encoder"
    assert content["id"] == response.headers["x-request-id"]
    assert all("document" not in result for result in content["results"])
    assert "warning" not in response.headers


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_every_path_answers(client: httpx.AsyncClient, path: str) -> None:
    body = {"model": "cross-encoder", "query": QUERY, "documents": DOCUMENTS}
    assert len((await client.post(path, json=body)).json()["results"]) == 4


@pytest.mark.parametrize("field", ["top_n", "top_k"])
async def test_only_the_best_are_given(client: httpx.AsyncClient, field: str) -> None:
    every = (await rerank(client, "cross-encoder")).json()["results"]
    best = (await rerank(client, "cross-encoder", **{field: 2})).json()["results"]
    assert [result["index"] for result in best] == [result["index"] for result in every[:2]]


async def test_documents_come_back_when_asked_for(client: httpx.AsyncClient) -> None:
    documents = [DOCUMENTS[0], {"text": DOCUMENTS[1]}]
    content = (await rerank(client, "cross-encoder", documents=documents, return_documents=True)).json()
    assert {result["index"]: result["document"] for result in content["results"]} == {
        0: {"text": DOCUMENTS[0]},
        1: {"text": DOCUMENTS[1]},
    }


async def test_a_model_that_only_embeds_ranks_by_similarity_and_says_so(client: httpx.AsyncClient) -> None:
    response = await rerank(client, "all-MiniLM-L6-v2")
    content = response.json()
    assert content["meta"]["method"] == "embedding_similarity"
    assert "similarity of embeddings" in response.headers["warning"]
    assert content["results"][0]["index"] == 1
    embeddings = (
        await client.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": [QUERY, DOCUMENTS[1]]})
    ).json()["data"]
    cosine = np.dot(embeddings[0]["embedding"], embeddings[1]["embedding"])
    assert content["results"][0]["relevance_score"] == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize("model", ["cross-encoder", "all-MiniLM-L6-v2"])
async def test_long_documents_are_cut_and_that_is_said(client: httpx.AsyncClient, model: str) -> None:
    response = await rerank(client, model, documents=["file " * 500, "short"])
    assert response.json()["meta"]["cut_documents"] == 1
    assert "1 documents were too long" in response.headers["warning"]


@pytest.mark.parametrize("model", ["cross-encoder", "all-MiniLM-L6-v2"])
async def test_texts_that_no_context_holds_cost_no_more_than_their_beginning(
    client: httpx.AsyncClient, model: str
) -> None:
    long = "file " * 3_000_000
    response = await rerank(client, model, documents=[long, "short"])
    assert response.json()["meta"]["cut_documents"] == 1
    response = await rerank(client, model, query=long)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "query")
    assert "has at least" in response.json()["error"]["message"]


async def test_the_beginning_of_a_long_document_counts(client: httpx.AsyncClient) -> None:
    """80 tokens, of which the query takes 9 and special tokens 3."""
    documents = ["file " * 500, "file " * 68]
    results = (await rerank(client, "cross-encoder", documents=documents)).json()["results"]
    assert results[0]["relevance_score"] == pytest.approx(results[1]["relevance_score"], abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": "word " * 500}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"documents": [{"title": "x"}]}, "documents[0].text"),
        ({"documents": ["x"] * 2049}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"model": "tiny"}, "model"),
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["cross-encoder", "all-MiniLM-L6-v2"])
async def test_bad_input_is_named(client: httpx.AsyncClient, model: str, fields: dict[str, Any], param: str) -> None:
    response = await rerank(client, **{"model": model} | fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error


async def test_a_query_that_leaves_no_room_is_told_with_numbers(client: httpx.AsyncClient) -> None:
    error = (await rerank(client, "cross-encoder", query="word " * 77)).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "80 tokens" in error["message"]
    assert (await rerank(client, "cross-encoder", query="word " * 76)).status_code == 200


async def test_tokens_and_types_that_the_model_has_not_are_refused(
    demo_store: Path, minilm_folder: Path, tmp_path: Path
) -> None:
    """A tokenizer may have more than its model; mlx would read beyond its arrays."""
    folders = [tmp_path / name for name in ("more-tokens", "more-types")]
    for folder in folders:
        write_tiny_encoder(folder, "bert", minilm_folder, cross_encoder=True)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        if folder.name == "more-tokens":
            tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": VOCABULARY, "content": "[MORE]"})
        else:
            for part in tokenizer["post_processor"]["pair"]:
                for kind in part.values():
                    kind["type_id"] *= 2
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with running_server(demo_store, *(part for folder in folders for part in ("--model", str(folder)))) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            documents = [DOCUMENTS[0], "[MORE]"]
            error = (await rerank(client, "more-tokens", documents=documents)).json()["error"]
            assert error["param"] == "documents"
            assert f"documents[1] holds token {VOCABULARY}" in error["message"]
            assert (await rerank(client, "more-tokens", documents=documents[:1])).status_code == 200
            error = (await rerank(client, "more-types")).json()["error"]
            assert error["param"] == "documents"
            assert "a token of type 2" in error["message"]
