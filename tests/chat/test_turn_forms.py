"""Conversations as agents send them, for templates that want user and assistant to alternate."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.chat.chat_template import template_turn
from gateway.chat.prompt import PromptBuilder
from gateway.chat.turn_forms import FORMS, is_even
from gateway.errors import InvalidRequest
from gateway.generation.request import Message, Role, ToolCall
from gateway.model_store.gguf_gemma3 import CHAT_TEMPLATE as GEMMA3
from tests.chat.prompt_builders import QWEN3, builder_with_template, conversation

# The checks of Mistral-Nemo's template; its texts are shortened, and no system text is moved to the last user turn.
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}{%- set loop_messages = messages[1:] %}{{- messages[0]["content"] + "\\n" }}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in loop_messages %}
{%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined)) %}
{%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
{{- raise_exception("After the optional system message, conversation roles must alternate") }}
{%- endif %}{%- set ns.index = ns.index + 1 %}
{%- endif %}
{%- endfor %}
{%- for message in loop_messages %}
{%- if message["role"] == "user" %}{{- "[INST]" + message["content"] + "[/INST]" }}
{%- elif message.tool_calls is defined %}{{- "[TOOL_CALLS]" + message["content"] }}
{%- for call in message.tool_calls %}{{- call.function.name }}{%- endfor %}{{- "</s>" }}
{%- elif message["role"] == "assistant" %}{{- message["content"] + "</s>" }}
{%- elif message["role"] == "tool" %}{{- "[TOOL_RESULTS]" + message["content"] + "[/TOOL_RESULTS]" }}
{%- else %}{{- raise_exception("Only user and assistant roles are supported, with the exception of system") }}
{%- endif %}
{%- endfor %}{#- tools -#}"""
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + GEMMA3
)
TEMPLATES = {"gemma3": GEMMA3, "no system": NO_SYSTEM, "mistral": MISTRAL, "qwen3": QWEN3}

CALLING = Message("assistant", "", (ToolCall("call_1", "read", "{}"),))


@pytest.fixture(scope="module")
def builders(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PromptBuilder]:
    folder = tmp_path_factory.mktemp("models")
    return {name: builder_with_template(demo_folder, folder / name, text) for name, text in TEMPLATES.items()}


async def written(prompts: PromptBuilder, messages: list[Message]) -> str:
    text: str = prompts._tokenizer.decode((await prompts.compose(conversation(messages))).ids)
    return text


async def test_messages_of_one_role_become_one_turn(builders: dict[str, PromptBuilder]) -> None:
    """As codex sends them: developer items, the project's instructions, and the question."""
    messages = [Message("system", "S"), Message("system", "T"), Message("user", "A"), Message("user", "B")]
    assert "user\nS\n\nT\n\nA\n\nB<end_of_turn>" in await written(builders["gemma3"], messages)
    assert "user\nS\n\nT\n\nA\n\nB<end_of_turn>" in await written(builders["no system"], messages)
    assert await written(builders["mistral"], messages) == "S\n\nT\n[INST]A\n\nB[/INST]"


async def test_later_system_messages_are_the_users_where_they_stand(builders: dict[str, PromptBuilder]) -> None:
    messages = [Message("user", "A"), Message("system", "S"), Message("assistant", "B"), Message("system", "T")]
    assert await written(builders["mistral"], messages) == "[INST]A\n\nS[/INST]B</s>[INST]T[/INST]"
    messages.append(Message("user", "C"))
    assert await written(builders["mistral"], messages) == "[INST]A\n\nS[/INST]B</s>[INST]T\n\nC[/INST]"
    text = await written(builders["gemma3"], messages)
    assert "user\nA\n\nS<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n<start_of_turn>user\nT\n\nC<end" in text


async def test_an_assistant_that_speaks_first_answers_an_empty_turn(builders: dict[str, PromptBuilder]) -> None:
    messages = [Message("assistant", "Hello"), Message("user", "A")]
    assert await written(builders["mistral"], messages) == "[INST][/INST]Hello</s>[INST]A[/INST]"
    assert "user\n<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>" in await written(
        builders["gemma3"], messages
    )
    assert "<|im_start|>user\n<|im_end|>" not in await written(builders["qwen3"], messages)


async def test_text_behind_tool_results_goes_into_the_last_of_them(builders: dict[str, PromptBuilder]) -> None:
    """As Claude Code sends it, in one message with the results."""
    messages = [Message("user", "A"), CALLING, Message("tool", "1"), Message("tool", "2"), Message("user", "B")]
    assert await written(builders["mistral"], messages) == (
        "[INST]A[/INST][TOOL_CALLS]read</s>[TOOL_RESULTS]1[/TOOL_RESULTS][TOOL_RESULTS]2\n\nB[/TOOL_RESULTS]"
    )


async def test_a_template_that_takes_everything_gets_it_as_it_was_sent(builders: dict[str, PromptBuilder]) -> None:
    messages = [Message("system", "S"), Message("user", "A"), Message("user", "B"), Message("system", "T")]
    assert await written(builders["qwen3"], messages) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>user\nB<|im_end|>\n"
        "<|im_start|>system\nT<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_what_no_form_helps_is_refused_in_the_words_for_what_was_sent(demo_folder: Path, tmp_path: Path) -> None:
    template = "{{ raise_exception('not these ' ~ messages | length ~ ' turns') }}{#- tools -#}"
    prompts = builder_with_template(demo_folder, tmp_path / "model", template)
    with pytest.raises(InvalidRequest, match="not these 3 turns"):
        await prompts.compose(conversation([Message("system", "S"), Message("user", "A"), Message("user", "B")]))


ROUNDS = st.lists(
    st.tuples(
        st.lists(st.sampled_from([("user",), ("system",), ("calls", "tool"), ("calls", "tool", "user")]), max_size=3),
        st.sampled_from(["user", "system"]),
    ),
    min_size=2,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(begins_with_system=st.booleans(), greeted=st.booleans(), rounds=ROUNDS)
@pytest.mark.parametrize("template", ["gemma3", "no system", "mistral"])
async def test_a_conversation_that_grows_begins_with_what_it_was(
    builders: dict[str, PromptBuilder],
    template: str,
    begins_with_system: bool,
    greeted: bool,
    rounds: list[tuple[list[tuple[str, ...]], str]],
) -> None:
    """Every turn is written once, in its order, whatever the roles; and earlier ones stay where they were."""
    messages = [Message("system", "#0 ")] if begins_with_system else []
    if greeted:
        messages.append(Message("assistant", f"#{len(messages)} "))
    last = ""
    for others, asked in rounds:
        for role in [*(role for roles in [("user",), *others] for role in roles), asked]:
            words = f"#{len(messages)} "
            if role == "calls":
                messages.append(Message("assistant", words, CALLING.tool_calls))
            else:
                known: dict[str, Role] = {"user": "user", "system": "system", "tool": "tool"}
                messages.append(Message(known[role], words))
        text = await written(builders[template], messages)
        positions = [text.index(f"#{number}") for number in range(len(messages))]
        assert positions == sorted(positions)
        assert text.count("#") == len(messages)
        assert text.startswith(last)
        last = text
        messages.append(Message("assistant", f"#{len(messages)} "))


@given(roles=st.lists(st.sampled_from(["user", "assistant", "tool", "system"]), max_size=6))
def test_a_conversation_that_needs_no_form_stays_as_it_is(roles: list[Role]) -> None:
    turns = [template_turn(Message(role, f"{number}")) for number, role in enumerate(roles)]
    kept = [form.write(turns) == turns for form in FORMS if form.systems != 0]
    assert is_even(turns) == all(kept)
