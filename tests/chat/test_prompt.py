"""Prompts with the demo model's own template, and with hostile ones."""

import asyncio
import re
from pathlib import Path

import pytest

from gateway.chat.prompt import PromptBuilder
from gateway.errors import InvalidRequest
from gateway.generation.request import Message, ToolCall
from tests.chat.prompt_builders import QWEN3, builder, builder_with_template, conversation


@pytest.fixture(scope="session")
def demo_builder(demo_folder: Path) -> PromptBuilder:
    return builder(demo_folder)


@pytest.fixture(scope="module")
def qwen3(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    return builder_with_template(demo_folder, tmp_path_factory.mktemp("qwen3") / "model", QWEN3)


async def test_the_prompt_is_the_template_up_to_the_answer(demo_builder: PromptBuilder) -> None:
    ids = (await demo_builder.compose(conversation([Message("system", "Be brief."), Message("user", "Hi")]))).ids
    text = demo_builder._tokenizer.decode(ids)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


async def test_long_prompts_side_by_side_are_what_they_are_alone(demo_builder: PromptBuilder) -> None:
    """They are tokenised on several threads at once, with one tokenizer."""
    texts = [f"{number} word" * 4_000 for number in range(8)]
    together = await asyncio.gather(*(demo_builder.compose(conversation([Message("user", text)])) for text in texts))
    assert [one.ids for one in together] == [
        (await demo_builder.compose(conversation([Message("user", text)]))).ids for text in texts
    ]


async def test_the_last_message_begins_and_ends_where_the_prompt_may_change(demo_builder: PromptBuilder) -> None:
    messages = [Message("system", "Be brief."), Message("user", "Hi there, what is it?")]
    prompt = await demo_builder.compose(conversation(messages), with_message_ends=True)
    begins, ends = prompt.message_ends
    decode = demo_builder._tokenizer.decode
    assert decode(prompt.ids[:begins]) == "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert decode(prompt.ids[ends:]) == "<|im_start|>assistant\n"
    edited = (await demo_builder.compose(conversation([messages[0], Message("user", "Another question")]))).ids
    assert edited[:begins] == prompt.ids[:begins]


async def test_a_template_that_takes_no_shorter_conversation_shows_where_the_last_content_begins(
    demo_folder: Path, tmp_path: Path
) -> None:
    template = (
        "{% if messages[-1]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    prompts = builder_with_template(demo_folder, tmp_path / "model", template)
    messages = [Message("system", "Be brief."), Message("user", "Hi")]
    prompt = await prompts.compose(conversation(messages), with_message_ends=True)
    (begins,) = prompt.message_ends  # it writes nothing before the answer: the end is no place in the prompt
    assert prompts._tokenizer.decode(prompt.ids[:begins]) == "Be brief.<|im_end|>"


async def test_a_template_that_writes_past_turns_otherwise_when_they_are_last(qwen3: PromptBuilder) -> None:
    """Qwen3 gives the last turn an empty thought: without the question, the text before it would be another."""
    messages = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Why?")]
    prompt = await qwen3.compose(conversation(messages), with_message_ends=True)
    begins, ends = prompt.message_ends
    decode = qwen3._tokenizer.decode
    assert decode(prompt.ids[begins:]) == "Why?<|im_end|>\n<|im_start|>assistant\n"
    assert decode(prompt.ids[ends:]) == "<|im_start|>assistant\n"


async def test_places_within_a_token_are_left_out(demo_folder: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}ing{% endif %}"
    prompts = builder_with_template(demo_folder, tmp_path / "model", template)
    messages = [Message("system", "Is this any quest"), Message("user", "ion")]
    assert (await prompts.compose(conversation(messages), with_message_ends=True)).message_ends == ()
    messages = [Message("system", "Is this any"), Message("user", " test")]
    prompt = await prompts.compose(conversation(messages), with_message_ends=True)
    (begins,) = prompt.message_ends
    assert prompts._tokenizer.decode(prompt.ids[begins:]) == " testing"


async def test_a_template_that_takes_no_conversation_without_an_answer(demo_folder: Path, tmp_path: Path) -> None:
    template = (
        "{% if not add_generation_prompt %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    prompts = builder_with_template(demo_folder, tmp_path / "model", template)
    prompt = await prompts.compose(conversation([Message("user", "Hi")]), with_message_ends=True)
    assert (prompt.message_ends, prompt.place) == ((), None)


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ('{"n": 1.0, "name": "\\u00e9"}', '{"n": 1.0, "name": "é"}'),
        ('{"n": "\\ud83d", "m": "\\ud83e\\udd9c"}', '{"n": "\ufffd", "m": "🦜"}'),
        ("", "{}"),
        ("{cut", "{cut"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
async def test_templates_get_tool_calls_with_an_object(qwen3: PromptBuilder, arguments: str, written: str) -> None:
    calling = Message("assistant", "Now:", (ToolCall("call_1", "read", arguments),))
    ids = (await qwen3.compose(conversation([Message("user", "Hi"), calling, Message("tool", "Done")]))).ids
    assert qwen3._tokenizer.decode(ids) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nNow:\n"
        f'<tool_call>\n{{"name": "read", "arguments": {written}}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nDone\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


MISTRAL_CALLS = """\
{%- for m in messages %}
{%- if m.tool_calls is defined %}{%- for call in m.tool_calls %}
{%- if not call.id is defined or call.id|length != 9 %}
{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}
{{- "[TOOL_CALLS]" + call.function.name + " " + call.id + "</s>" }}{%- endfor %}
{%- elif m.role == "tool" %}
{%- if not m.tool_call_id is defined or m.tool_call_id|length != 9 %}
{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}
{{- "[TOOL_RESULTS]" + m.content + " " + m.tool_call_id + "[/TOOL_RESULTS]" }}
{%- else %}{{- "[INST]" + m.content + "[/INST]" }}{%- endif %}
{%- endfor %}"""


async def test_a_template_that_wants_short_call_ids_gets_the_same_for_a_call_and_its_result(
    demo_folder: Path, tmp_path: Path
) -> None:
    """As Mistral's, from which these lines are."""
    prompts = builder_with_template(demo_folder, tmp_path / "model", MISTRAL_CALLS)
    ids = [f"call_{number:024x}" for number in (1, 2)]
    calls = tuple(ToolCall(call_id, "read", "{}") for call_id in ids)
    results = [Message("tool", f"Done {call_id[-1]}", tool_call_id=call_id) for call_id in ids[::-1]]
    messages = [Message("user", "Hi"), Message("assistant", "", calls), *results]
    text = prompts._tokenizer.decode((await prompts.compose(conversation(messages))).ids)
    written = re.fullmatch(
        r"\[INST\]Hi\[/INST\]\[TOOL_CALLS\]read (\w{9})</s>\[TOOL_CALLS\]read (\w{9})</s>"
        r"\[TOOL_RESULTS\]Done 2 (\w{9})\[/TOOL_RESULTS\]\[TOOL_RESULTS\]Done 1 (\w{9})\[/TOOL_RESULTS\]",
        text,
    )
    assert written
    first, second, *of_results = written.groups()
    assert first != second
    assert of_results == [second, first]
    own = [Message("user", "Hi"), Message("assistant", "", (ToolCall("abcDEF123", "read", "{}"),))]
    assert "abcDEF123" in prompts._tokenizer.decode((await prompts.compose(conversation(own))).ids)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages[9]['content'] }}", "no element 9"),
        ("{{ messages[0]['content'] + 1 }}", "str"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
    ],
)
async def test_a_template_that_fails_is_a_clear_refusal(
    demo_folder: Path, tmp_path: Path, template: str, message: str
) -> None:
    prompts = builder_with_template(demo_folder, tmp_path / "model", template)
    with pytest.raises(InvalidRequest, match=message) as caught:
        await prompts.compose(conversation([Message("user", "Hi")]))
    assert caught.value.param == "messages"
