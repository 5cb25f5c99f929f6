"""The official client's embeddings, which it asks for as base64 unless it is told otherwise."""

import numpy as np
import openai
import pytest

from tests.conftest import Server

MODEL = "all-MiniLM-L6-v2"


def test_the_official_client_gets_its_vectors(encoder_server: Server) -> None:
    with openai.OpenAI(base_url=f"{encoder_server.url}/v1", api_key="none", max_retries=0) as client:
        texts = ["How do I open a file?", "Opening files", "A cat sleeps"]
        answer = client.embeddings.create(model=MODEL, input=texts)
        vectors = np.array([entry.embedding for entry in answer.data])
        assert vectors.shape == (3, 384)
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
        numbers = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
        np.testing.assert_array_equal(vectors, np.array([entry.embedding for entry in numbers.data], np.float32))
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 10
        assert len(client.embeddings.create(model=MODEL, input="x", dimensions=64).data[0].embedding) == 64
        with pytest.raises(openai.BadRequestError, match="has no embeddings"):
            client.embeddings.create(model="tiny", input="x")
