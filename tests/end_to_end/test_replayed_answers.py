"""A client that sends an answer back in other words, against the demo model: nothing of it is computed again."""

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.end_to_end.test_openai_client import MODEL, QUESTION, client

__all__ = ["client"]


def cached_of_next_turn(
    client: openai.OpenAI, first: str, session: str, replayed: str | None = None
) -> tuple[int, int]:
    """Tokens of the next turn's prompt that were not computed again, and how many the first turn had in all."""
    question: ChatCompletionMessageParam = {"role": "user", "content": f"{first} {QUESTION['content']}"}
    headers = {"x-session-id": session}
    answer = client.chat.completions.create(
        model=MODEL, messages=[question], temperature=0, max_tokens=60, extra_headers=headers
    )
    assert answer.choices[0].finish_reason == "stop"
    text = answer.choices[0].message.content or ""
    following = client.chat.completions.create(
        model=MODEL,
        messages=[
            question,
            {"role": "assistant", "content": f"\n {text} \n\n" if replayed is None else replayed},
            {"role": "user", "content": "And of Italy?"},
        ],
        max_tokens=1,
        extra_headers=headers,
    )
    assert answer.usage
    assert following.usage
    assert following.usage.prompt_tokens_details
    return following.usage.prompt_tokens_details.cached_tokens or 0, answer.usage.total_tokens


def test_a_trimmed_or_padded_answer_is_still_known(client: openai.OpenAI) -> None:
    cached, whole = cached_of_next_turn(client, "Be quick.", "one")
    assert cached >= whole - 2, "all but the end token, and the last one that was never fed"


def test_another_answer_is_taken_as_it_is_sent(client: openai.OpenAI) -> None:
    cached, whole = cached_of_next_turn(client, "Be honest.", "two", replayed="I do not know that.")
    assert cached < whole - 2


@pytest.mark.parametrize("key", ["none", "another"])
def test_answers_are_known_to_their_own_key_only(client: openai.OpenAI, key: str) -> None:
    """Reasoning that was hidden from others could come to light in what a session of the same name is told."""
    question: ChatCompletionMessageParam = {"role": "user", "content": f"Be kind, {key}. {QUESTION['content']}"}
    headers = {"x-session-id": "three"}
    answer = client.chat.completions.create(
        model=MODEL, messages=[question], temperature=0, max_tokens=60, extra_headers=headers
    )
    following = client.with_options(api_key=key).chat.completions.create(
        model=MODEL,
        messages=[
            question,
            {"role": "assistant", "content": f"\n {answer.choices[0].message.content}"},
            {"role": "user", "content": "And of Italy?"},
        ],
        max_tokens=1,
        extra_headers=headers,
    )
    assert answer.usage
    assert following.usage
    assert following.usage.prompt_tokens_details
    known = (following.usage.prompt_tokens_details.cached_tokens or 0) >= answer.usage.total_tokens - 2
    assert known == (key == "none")


def test_an_answer_that_the_client_began_is_known_whole(client: openai.OpenAI) -> None:
    question: ChatCompletionMessageParam = {"role": "user", "content": f"Be exact. {QUESTION['content']}"}
    headers = {"x-session-id": "begun"}
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[question, {"role": "assistant", "content": "The capital of"}],
        temperature=0,
        max_tokens=60,
        extra_body={"continue_final_message": True},
        extra_headers=headers,
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    whole = "The capital of" + (answer.choices[0].message.content or "")
    following = client.chat.completions.create(
        model=MODEL,
        messages=[question, {"role": "assistant", "content": whole}, {"role": "user", "content": "And of Italy?"}],
        max_tokens=1,
        extra_headers=headers,
    )
    assert following.usage
    assert following.usage.prompt_tokens_details
    assert (following.usage.prompt_tokens_details.cached_tokens or 0) >= answer.usage.total_tokens - 2
