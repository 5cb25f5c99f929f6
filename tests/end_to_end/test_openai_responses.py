"""The official client's responses against the demo model."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseInputParam
from pydantic import BaseModel

from tests.conftest import Server

MODEL = "SmolLM2-135M-Instruct"
QUESTION = "What is the capital of France? Answer in one sentence."


@pytest.fixture
def client(demo_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_demo_model_answers(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input=QUESTION, temperature=0, store=False)
    assert "Paris" in response.output_text
    assert response.status == "completed"
    assert response.usage
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_stream_is_the_same_text(client: openai.OpenAI) -> None:
    whole = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    said = ""
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                said += event.delta
                assert event.snapshot == said
        final: Response = stream.get_final_response()
    assert said == final.output_text == whole.output_text
    assert final.usage
    assert whole.usage
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_every_event_is_of_the_clients_types(client: openai.OpenAI) -> None:
    """Read by the client, then held to its types, which it does not do itself."""
    events = list(client.responses.create(model=MODEL, input=QUESTION, temperature=0, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        type(event).model_validate_json(event.to_json(), strict=True)
    assert events[-1].type == "response.completed"


def test_a_conversation_is_replayed_with_the_clients_own_items(client: openai.OpenAI) -> None:
    first: Any = {"role": "user", "content": QUESTION}
    earlier = client.responses.create(model=MODEL, input=[first], temperature=0)
    items: ResponseInputParam = [
        first,
        *(item.to_dict() for item in earlier.output),  # type: ignore[list-item]  # what the client's guide does
        {"role": "user", "content": "And of Italy?"},
    ]
    later = client.responses.create(model=MODEL, input=items, temperature=0, max_output_tokens=20)
    assert later.output_text
    assert later.usage
    assert earlier.usage
    assert later.usage.input_tokens_details.cached_tokens >= earlier.usage.input_tokens


def test_a_typed_answer(client: openai.OpenAI) -> None:
    class Capital(BaseModel):
        city: str

    parsed = client.responses.parse(model=MODEL, input=QUESTION, temperature=0, text_format=Capital)
    assert isinstance(parsed.output_parsed, Capital)
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0, text_format=Capital) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed


def test_errors_are_the_clients_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="gpt-4o", input=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as stored:
        client.responses.create(model=MODEL, input=QUESTION, previous_response_id="resp_1")
    assert stored.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as long:
        client.responses.create(model=MODEL, input="word " * 9000, stream=True)
    assert long.value.code == "context_length_exceeded"
