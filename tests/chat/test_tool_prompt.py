"""Tools, calls and results in the prompts of models whose template knows none."""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.chat.tool_prompt import Turn, knows_tools, plain_turns
from tests.chat.prompt_builders import QWEN3

TOOLS = [{"type": "function", "function": {"name": "read", "description": "Ä", "parameters": {"type": "object"}}}]
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "read", "arguments": {"path": "ä"}}}]
TALK: list[Turn] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Read both."},
    {"role": "assistant", "content": "I read.", "tool_calls": [*CALLS, *CALLS]},
    {"role": "tool", "content": "one", "tool_call_id": "call_1"},
    {"role": "tool", "content": "two", "tool_call_id": "call_2"},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "content": "three", "tool_call_id": "call_3"},
    {"role": "assistant", "content": "Done."},
]
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
GEMMA2 = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)


def test_which_templates_know_tools() -> None:
    assert knows_tools(QWEN3)
    assert not knows_tools(CHATML)


def test_calls_and_results_are_text() -> None:
    system, *turns = plain_turns(TALK, TOOLS, CHATML)
    call = '<tool_call>\n{"name": "read", "arguments": {"path": "ä"}}\n</tool_call>'
    results = "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("user", "Read both."),
        ("assistant", f"I read.\n{call}\n{call}"),
        ("user", f"{results}\nAnd?"),
        ("assistant", call),
        ("user", "<tool_response>\nthree\n</tool_response>"),
        ("assistant", "Done."),
    ]
    assert system["content"].startswith("Be brief.\n\n")
    assert json.dumps(TOOLS[0], ensure_ascii=False) in system["content"]
    assert not any("tool_calls" in turn for turn in turns)


def test_without_tools_nothing_is_said_of_them() -> None:
    assert plain_turns(TALK[:2], [], CHATML) == TALK[:2]


def test_without_a_system_turn_the_tools_get_one_or_stand_first() -> None:
    own, user = plain_turns(TALK[1:2], TOOLS, CHATML)
    assert (own["role"], user["content"]) == ("system", "Read both.")
    (only,) = plain_turns(TALK[1:2], TOOLS, GEMMA2)
    assert only["role"] == "user"
    assert only["content"] == f"{own['content']}\n\nRead both."


def test_a_template_that_writes_calls_keeps_the_turns() -> None:
    template = CHATML + "{{ messages[-1].tool_calls }}"
    assert plain_turns(TALK, TOOLS, template)[1:] == TALK[1:]


@pytest.mark.parametrize("length", [2, 5, 8])
def test_a_conversation_that_grows_begins_with_what_it_was(length: int) -> None:
    """Cut where the model answers."""
    template: Any = ImmutableSandboxedEnvironment().from_string(CHATML)
    before = template.render(messages=plain_turns(TALK[:length], TOOLS, CHATML))
    after = template.render(messages=plain_turns(TALK, TOOLS, CHATML))
    cut = before.removesuffix("<|im_end|>\n") if length == 5 else before
    assert after.startswith(cut)


def test_the_turns_that_were_given_stay_as_they_are() -> None:
    turns = json.loads(json.dumps(TALK))
    plain_turns(turns, TOOLS, CHATML)
    assert turns == TALK


def test_the_demo_models_template_knows_no_tools(demo_folder: Path) -> None:
    assert not knows_tools(json.loads((demo_folder / "tokenizer_config.json").read_text())["chat_template"])
