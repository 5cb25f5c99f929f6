import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat import replayed_turn
from gateway.chat.replayed_turn import call_digest, calls_digest, text_digest, visible_text
from gateway.generation.request import Message, ToolCall


@pytest.mark.parametrize(
    ("content", "visible"),
    [
        (" Hello\n", "Hello"),
        ("<think>\nHm\n</think>\n\nHello", "Hello"),
        ("\n<think></think>Hello", "Hello"),
        ("[THINK]Hm[/THINK]Hello", "Hello"),
        ("<|channel>thought\nHm<channel|>Hello", "Hello"),
        ("<|open|>think<|sep|>Hm<|close|>think<|sep|>Hello", "Hello"),
        ("<reasoning>Hm</reasoning>Hello", "Hello"),
        ("The tag </think> closes it.", "The tag </think> closes it."),
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
    replays = partial(replayed_turn.replays, reasoned=False)
    assert replays(Message("assistant", "<think>\n</think>Yes ", calls[::-1]), text, digest)
    assert replays(Message("assistant", "", calls), text, digest)
    assert not replays(Message("assistant", "No", calls), text, digest)
    assert not replays(Message("assistant", "Yes", calls[:1]), text, digest)
    assert not replays(Message("assistant", "Yes"), text, digest)
    assert not replays(Message("assistant", ""), text, calls_digest(()))


@pytest.mark.parametrize(
    ("answer", "content", "reasoned", "replayed"),
    [
        ("Hello", "Hm\n</think>\n\nHello", True, True),  # the prompt opened the reasoning
        ("Hello", "Hm\n</think>\n\nHello", False, False),
        ("Hello", "Hm\n</think>\n\nHello there", True, False),
        ("The tag `</think>` closes it.", "The tag `</think>` closes it.", False, True),
        ("The tag `</think>` closes it.", "The tag `</think>` closes it.", True, True),
        ("The tag `</think>` closes it.", "Hm</think>The tag `</think>` closes it.", True, True),
        ("The tag `</think>` closes it.", "<think>Hm</think>The tag `</think>` closes it.", True, True),
        ("The tag `</think>` closes it.", "My edited words `</think>` closes it.", False, False),
        ("The tag `</think>` closes it.", "My edited words `</think>` closes it.", True, False),
    ],
)
def test_text_before_a_bare_closing_mark_is_reasoning_only_if_there_was_some(
    answer: str, content: str, reasoned: bool, replayed: bool
) -> None:
    message = Message("assistant", content)
    assert replayed_turn.replays(message, text_digest(answer), calls_digest(()), reasoned=reasoned) == replayed
