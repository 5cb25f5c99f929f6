"""gpt-oss: channels instead of marks around reasoning and calls."""

from typing import Any

import pytest

from gateway.chat.output_format import output_format
from gateway.chat.tool_calls.harmony import Harmony
from tests.chat.tool_calls.readings import Call, fed, read, understood

THOUGHT = "<|channel|>analysis<|message|>I think.<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>Done: 1 < 2.\n\nBye<|return|>"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (THOUGHT + FINAL, [("I think.",), "Done: 1 < 2.\n\nBye"]),
        (f"{THOUGHT}<|start|>assistant{CALL}", [("I think.",), Call("f", {"a": 1})]),
        (f"{THOUGHT}<|start|>assistant{CALL}<|start|>assistant{CALL}", [("I think.",), *[Call("f", {"a": 1})] * 2]),
        ("<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + CALL, ["I look.", Call("f", {"a": 1})]),
        ('<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"a": 1}', [Call("f", {"a": 1})]),
        ("<|channel|>analysis to=browser.search<|message|>{}<|call|>", [Call("browser.search", {})]),
        ("<|channel|>commentary to=functions.f<|message|>no json<|call|>", [Call("f", "no json")]),
        ("<|channel|>commentary to=functions.f<|message|><|call|>", [Call("f", {})]),
        ("<|channel|>commentary to=functions.f<|message|>", [Call("f", "")]),
        ('<|channel|>commentary to=functions.f<|message|>{"a": 1<|call|>', [Call("f", {"a": 1})]),
        ('<|channel|>commentary to=functions.f<|message|>{"a": 1', [Call("f", '{"a": 1')]),
        ("<|channel|>analysis<|message|>I thi", [("I thi",)]),
        ("<|channel|>final<|message|>Hel", ["Hel"]),
        ("<|channel|>fin", []),
        ("Hello", ["Hello"]),
    ],
)
def test_harmony(text: str, found: list[Any]) -> None:
    assert understood(read(Harmony(), text)) == found


def test_channels_are_told_apart_also_without_tools() -> None:
    parser = output_format("<|channel|><|message|>").parser((), "<|start|>assistant")
    assert understood(fed(parser, THOUGHT + FINAL)) == [("I think.",), "Done: 1 < 2.\n\nBye"]
    parser = output_format("<|channel|><|message|>").parser((), "<|start|>assistant")
    assert understood(fed(parser, CALL)) == ['{"a": 1}']


def test_who_expects_what() -> None:
    parser = Harmony().parser(())
    parser.feed("<|channel|>analysis<|message|>I")
    assert parser.thinking
    assert not parser.saying
    parser.feed("<|end|><|start|>assistant<|channel|>final<|message|>")
    assert parser.saying
    assert not parser.thinking
