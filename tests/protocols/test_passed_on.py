import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamFailed, UpstreamRefused
from gateway.protocols.passed_on import body_fields, events_with_model, field_value, session_hint, with_model
from gateway.protocols.passed_on_stream import passed_on_stream

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
bodies = st.dictionaries(st.text() | st.sampled_from(["model", "response", "message", "choices"]), json_values)


def test_the_model_is_named_as_the_client_names_it() -> None:
    assert with_model(b'{"id": "1","model": "tiny" , "x": 1.50}', "big") == b'{"id":"1","model":"big","x":1.50}'
    assert with_model(b'{"response": {"model": "tiny"}}', "big") == b'{"response":{"model":"big"}}'
    assert with_model(b'{"message": {"model": "tiny"}}', "big") == b'{"message":{"model":"big"}}'


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b'{"a": "\\"model\\""}', b'["model"]', b'{"text": "model"}', b'{"x": {"model" : 1}}', b'"model'],
)
def test_what_names_no_model_stays_as_it_is(body: bytes) -> None:
    assert with_model(body, "big") == body


@given(bodies)
def test_all_else_keeps_its_value(body: dict[str, Any]) -> None:
    after = json.loads(with_model(json.dumps(body).encode(), "big"))
    expected = {name: "big" if name == "model" else value for name, value in body.items()}
    for holder in ("response", "message"):
        if isinstance(body.get(holder), dict) and "model" in body[holder]:
            expected[holder] = {**body[holder], "model": "big"}
    assert after == expected


def test_events_keep_their_form() -> None:
    events = (
        b': "model"\n\nevent: x\r\ndata:  {"message":{"model":"tiny"}}\r\n\r\ndata: {"a" : "model"}\n\ndata: [DONE]\n\n'
    )
    assert events_with_model(events, "big") == events.replace(b"tiny", b"big")


def test_a_field_of_another_kind_is_none() -> None:
    fields = body_fields(b'{"model": 3, "stream": "yes"}')
    assert field_value(fields, "model", str) is None
    assert field_value(fields, "stream", bool) is None
    assert field_value(fields, "none", str) is None
    assert body_fields(b"[]") == body_fields(b"{") == body_fields(b"\xff") == {}


def hint(**body: object) -> str:
    return session_hint(body_fields(json.dumps(body).encode()))


def test_the_turns_of_a_conversation_are_one_session() -> None:
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    answered = [*first, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"}]
    assert hint(messages=first) == hint(messages=answered, temperature=0)
    assert hint(messages=first) != hint(messages=[first[0], {"role": "user", "content": "Hallo"}])
    assert hint(system="a", messages=first) != hint(system="b", messages=first)
    assert hint(prompt="x" * 2000 + "a") == hint(prompt="x" * 2000 + "b")
    assert hint(prompt="a") != hint(prompt="b")


def test_a_named_session_is_taken_at_its_word() -> None:
    assert hint(prompt_cache_key="mine", messages=[]) == "mine"
    assert hint(metadata={"user_id": "me"}, messages=[]) == "me"


FAILED = UpstreamFailed("a:1 broke its answer off", "cut")
REFUSED = UpstreamRefused(
    "too long", 400, {}, b'{"error":\n {"message": "too long",\n "code": "context_length_exceeded"}}'
)


def test_a_stream_that_breaks_ends_in_its_protocols_way() -> None:
    chat = b"".join(passed_on_stream("/chat/completions", "big").error_frames(FAILED))
    error, done = chat.decode().removesuffix("\n\n").split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "upstream_failed"
    assert done == "data: [DONE]"
    (message,) = passed_on_stream("/messages", "big").error_frames(FAILED)
    kind, data = message.decode().removesuffix("\n\n").split("\n")
    assert kind == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["message"] == str(FAILED)
    responses = passed_on_stream("/responses", "big")
    assert list(responses.frames(b'data: {"sequence_number":6}\n\ndata: {"sequence_number":7}\n\n'))
    (event,) = responses.error_frames(FAILED)
    assert json.loads(event.split(b"data: ")[1])["sequence_number"] == 8


def test_another_servers_words_are_kept_in_one_line() -> None:
    error = next(passed_on_stream("/completions", "big").error_frames(REFUSED))
    assert error == b'data: {"error":{"message":"too long","code":"context_length_exceeded"}}\n\n'
