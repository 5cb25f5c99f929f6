import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat.replayed_turn import call_digest, calls_digest, replays, text_digest, visible_text
from gateway.generation.request import Message, ToolCall


@pytest.mark.parametrize(
    ("content", "visible"),
    [
        (" Hello\n", "Hello"),
        ("<think>\nHm\n</think>\n\nHello", "Hello"),
        ("\n<think></think>Hello", "Hello"),
        ("Hm\n</think>\n\nHello", "Hello"),  # opened in the prompt
        ("[THINK]Hm[/THINK]Hello", "Hello"),
        ("<think>cut", "<think>cut"),
        ("Write <think> and </think>.", "Write <think> and </think>."),
        ("<think>a</think>Use </think>", "Use </think>"),
        ("", ""),
    ],
)
def test_the_text_without_its_reasoning(content: str, visible: str) -> None:
    assert visible_text(content) == visible


def call(arguments: str, identity: str = "call_1", name: str = "read") -> ToolCall:
    return ToolCall(identity, name, arguments)


@pytest.mark.parametrize(
    ("generated", "replayed"),
    [
        ('{"a": 1, "b": [1, 2]}', '{"b":[1,2],"a":1}'),
        ('{"a": 1.0, "b": 1e3, "c": 1.50, "d": -0.0}', '{"a":1,"b":1000,"c":1.5,"d":0}'),
        ('{"a": 12345678901234567890}', '{"a":12345678901234567000}'),  # what JavaScript makes of it
        ('{"a": "caf\\u00e9 \\ud83e\\udd9c \\/"}', '{"a":"café 🦜 /"}'),
        ('{"a": "\\ud800"}', '{"a":"\\ud800"}'),
        ("", "{}"),
        ("{cut", "{cut"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_arguments_written_anew_are_the_same(generated: str, replayed: str) -> None:
    assert call_digest(call(generated)) == call_digest(call(replayed))


@pytest.mark.parametrize(
    "other",
    [
        call('{"a": "1"}'),
        call('{"a": 2}'),
        call('{"a": true}'),
        call('{"a": 1, "b": null}'),
        call('{"a": [1]}'),
        call("{cut"),
        call('{"a": 1}', name="run"),
        call('{"a": 1}', identity="call_2"),
    ],
)
def test_other_arguments_are_another_call(other: ToolCall) -> None:
    assert call_digest(other) != call_digest(call('{"a": 1}'))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(value=st.dictionaries(st.text(), json_values, max_size=4), data=st.data())
def test_any_way_to_write_arguments_is_the_same(value: dict[str, object], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(value.items()))))
    written = json.dumps(shuffled, ensure_ascii=False, separators=(",", ":"), indent=data.draw(st.none() | st.just(2)))
    assert call_digest(call(json.dumps(value))) == call_digest(call(written))


def test_a_turn_replays_an_answer() -> None:
    calls = call("{}"), call("{}", "call_2")
    text, digest = text_digest("Yes"), calls_digest(calls)
    assert replays(Message("assistant", "<think>\n</think>Yes ", calls[::-1]), text, digest)
    assert replays(Message("assistant", "", calls), text, digest)
    assert not replays(Message("assistant", "No", calls), text, digest)
    assert not replays(Message("assistant", "Yes", calls[:1]), text, digest)
    assert not replays(Message("assistant", "Yes"), text, digest)
    assert not replays(Message("assistant", ""), text, calls_digest(()))
