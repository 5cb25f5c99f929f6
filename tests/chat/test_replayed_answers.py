"""Conversations in which a client sends answers back in other words: the prompt must begin as the last one ended."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.chat.answer_memory import AnswerMemory
from gateway.chat.prompt import Prompt, PromptBuilder
from gateway.generation.request import Message, Role, ToolCall
from tests.chat.prompt_builders import OTHER_TOKENS, QWEN3, builder_with_template, conversation, encoded

BuilderOf = Callable[[str], PromptBuilder]
Rewrite = Callable[[Message, str], Message]

USERS = "{% for m in messages %}{% if m.role != 'assistant' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
TEMPLATES = {
    "qwen3": QWEN3,
    "trims contents": USERS
    + "{% else %}<|im_start|>assistant\n{{ m.content | trim }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "opens the thoughts in the prompt": USERS
    + "{% else %}<|im_start|>assistant\n{{ m.content.split('</think>')[-1] | trim }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "gives every past turn an empty thought": USERS
    + "{% else %}<|im_start|>assistant\n<think>\n\n</think>\n\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "closes the thoughts of past turns": USERS
    + "{% else %}<|im_start|>assistant\n</think>{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}",
    "has no generation prompt": "{% for m in messages %}{% if m.role != 'assistant' %}[INST] {{ m.content }}[/INST]"
    "{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}",
}


@pytest.fixture(scope="module")
def builder_of(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> BuilderOf:
    built: dict[str, PromptBuilder] = {}

    def of(template: str) -> PromptBuilder:
        if template not in built:
            folder = tmp_path_factory.mktemp("models") / "model"
            built[template] = builder_with_template(demo_folder, folder, template)
        return built[template]

    return of


@pytest.fixture(scope="module")
def qwen3(builder_of: BuilderOf) -> PromptBuilder:
    return builder_of(QWEN3)


class Conversation:
    """Both sides of one: the gateway's memory and prompts, and a client that sends answers back as it likes."""

    def __init__(self, builder: PromptBuilder, client: Rewrite, session: str = "one") -> None:
        self.builder = builder
        self.client = client
        self.session = session
        self.memory = AnswerMemory()
        self.messages: list[Message] = []

    async def say(self, *messages: Message) -> Prompt:
        self.messages += messages
        recalled = self.memory.recall("model", self.session, self.messages)
        return await self.builder.compose(conversation(self.messages), recalled)

    def hear(self, prompt: Prompt, reasoning: str, text: str, *calls: ToolCall) -> list[int]:
        """The model answers; its ids as the next prompt must hold them."""
        written = "".join(f'\n<tool_call>\n{{"name": "{c.name}", "arguments": {c.arguments}}}' for c in calls)
        ids = letter_by_letter(self.builder, reasoning + text + written)
        self.memory.remember(
            "model", self.session, self.messages, prompt.place, ids, text, calls, reasoned=bool(reasoning)
        )
        self.messages.append(self.client(Message("assistant", text, calls), reasoning))
        return prompt.ids + ids


def letter_by_letter(builder: PromptBuilder, text: str) -> list[int]:
    """Ids that no tokenizer would choose for this text, as a model may."""
    pieces = re.findall("|".join(map(re.escape, OTHER_TOKENS)) + "|.", text, re.DOTALL)
    ids = [token for piece in pieces for token in encoded(builder, piece)]
    assert builder._tokenizer.decode(ids) == text
    assert ids != encoded(builder, text)
    return ids


def as_javascript(value: Any) -> Any:
    """What JSON.parse and JSON.stringify leave of numbers, and the order in which some clients sort keys."""
    if isinstance(value, dict):
        return {key: as_javascript(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [as_javascript(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def rewritten(arguments: str) -> str:
    return json.dumps(as_javascript(json.loads(arguments)), separators=(",", ":"), ensure_ascii=False)


def verbatim(answer: Message, reasoning: str) -> Message:
    return answer


def measured_agent(answer: Message, reasoning: str) -> Message:
    """Writes arguments anew, drops reasoning, and the text beside calls (`content: null`)."""
    calls = tuple(ToolCall(call.id, call.name, rewritten(call.arguments)) for call in answer.tool_calls)
    return Message("assistant", "" if calls else f"{answer.content.strip()} \n", calls)


def with_reasoning(answer: Message, reasoning: str) -> Message:
    return Message("assistant", reasoning + answer.content, answer.tool_calls)


def with_trimmed_reasoning(answer: Message, reasoning: str) -> Message:
    thoughts = reasoning.removeprefix("<think>").removesuffix("</think>\n\n").strip()
    return Message("assistant", f"<think>{thoughts}</think>{answer.content}", answer.tool_calls)


CLIENTS = (verbatim, measured_agent, with_reasoning, with_trimmed_reasoning)
ARGUMENTS = '{"path": "caf\\u00e9.py", "seconds": 1.0, "limit": 1e3, "deep": {"b": [1.5, -0.0, null], "a": "x  y"}}'
REASONING = "<think>\nThe user wants the café's file.\n\n</think>\n\n"


def reasoning_under(prompt: Prompt) -> str:
    """As a model goes on from its generation prompt."""
    assert prompt.place
    return REASONING.removeprefix("<think>\n" if "<think>" in prompt.place.opening else "")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("template", TEMPLATES)
async def test_every_prompt_goes_on_from_the_last_prompt_and_answer(
    builder_of: BuilderOf, template: str, client: Rewrite
) -> None:
    chat = Conversation(builder_of(TEMPLATES[template]), client)
    prompt = await chat.say(Message("system", "Be brief."), Message("user", "Read the café's file  "))
    so_far = chat.hear(prompt, reasoning_under(prompt), " I read it.\n", ToolCall("call_1", "read", ARGUMENTS))
    prompt = await chat.say(Message("tool", "print('café')"))
    assert prompt.ids[: len(so_far)] == so_far
    calls = ToolCall("call_2", "read", "{}"), ToolCall("call_3", "run", ARGUMENTS)
    so_far = chat.hear(prompt, reasoning_under(prompt), "", *calls)
    prompt = await chat.say(Message("tool", "1"), Message("tool", "2"))
    assert prompt.ids[: len(so_far)] == so_far
    so_far = chat.hear(prompt, reasoning_under(prompt), "It prints\n\n `café`. ")
    prompt = await chat.say(Message("user", "Thank you"))
    assert prompt.ids[: len(so_far)] == so_far
    rest = chat.builder._tokenizer.decode(prompt.ids[len(so_far) :])
    assert rest.startswith("<|im_end|>")
    assert "Thank you" in rest


async def test_a_tokenizer_that_pads_its_batches(demo_folder: Path, tmp_path: Path) -> None:
    chat = Conversation(builder_with_template(demo_folder, tmp_path / "model", QWEN3), measured_agent)
    chat.builder._tokenizer.backend_tokenizer.enable_padding()
    so_far = chat.hear(await chat.say(Message("user", "Why?")), REASONING, "Because.")
    prompt = await chat.say(Message("user", "So?"))
    assert chat.builder._tokenizer.decode(prompt.ids[len(so_far) :]) == (
        "<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_what_a_reader_sees_of_a_real_template(qwen3: PromptBuilder) -> None:
    chat = Conversation(qwen3, measured_agent)
    first = await chat.say(Message("user", "Read"))
    chat.hear(first, REASONING, "Yes.", ToolCall("call_1", "read", '{"seconds": 1.0}'))
    prompt = await chat.say(Message("tool", "Done"))
    assert qwen3._tokenizer.decode(prompt.ids) == (
        "<|im_start|>user\nRead<|im_end|>\n<|im_start|>assistant\n"
        "<think>\nThe user wants the café's file.\n\n</think>\n\nYes.\n"
        '<tool_call>\n{"name": "read", "arguments": {"seconds": 1.0}}<|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nDone\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "client",
    [
        lambda answer, reasoning: Message("assistant", answer.content, (ToolCall("call_1", "read", '{"n": 2}'),)),
        lambda answer, reasoning: Message("assistant", answer.content, (ToolCall("call_1", "run", '{"n": 1}'),)),
        lambda answer, reasoning: Message("assistant", "Other words", answer.tool_calls),
        lambda answer, reasoning: Message("assistant", answer.content, answer.tool_calls[:1]),
        lambda answer, reasoning: Message("assistant", answer.content, (*answer.tool_calls, ToolCall("x", "y", "{}"))),
        lambda answer, reasoning: Message("assistant", answer.content),
        lambda answer, reasoning: Message("user", answer.content, answer.tool_calls),
    ],
)
async def test_what_a_client_changed_is_as_the_client_sent_it(qwen3: PromptBuilder, client: Rewrite) -> None:
    chat = Conversation(qwen3, client)
    calls = ToolCall("call_1", "read", '{"n": 1}'), ToolCall("call_2", "read", "{}")
    chat.hear(await chat.say(Message("user", "Read")), REASONING, "Yes.", *calls)
    prompt = await chat.say(Message("tool", "Done"))
    assert prompt.ids == (await qwen3.compose(conversation(chat.messages))).ids


async def test_the_same_words_at_two_places_are_two_answers(qwen3: PromptBuilder) -> None:
    chat = Conversation(qwen3, measured_agent)
    for question in ("First", "Second", "Third"):
        so_far = chat.hear(await chat.say(Message("user", question)), f"<think>{question}</think>\n\n", "Done.")
    prompt = await chat.say(Message("user", "Fourth"))
    assert prompt.ids[: len(so_far)] == so_far


async def test_an_answer_that_is_not_remembered_hinders_no_other_of_the_same_words(qwen3: PromptBuilder) -> None:
    """Such as one that a stop string cut: the mark in its place shall not be taken for the other's surroundings."""
    chat = Conversation(qwen3, measured_agent)
    await chat.say(Message("user", "First"), Message("assistant", "Done."))
    so_far = chat.hear(await chat.say(Message("user", "Second")), REASONING, "Done.")
    prompt = await chat.say(Message("user", "Third"))
    assert prompt.ids[: len(so_far)] == so_far


@pytest.mark.parametrize("calls", [(), (ToolCall("call_1", "read", '{"a": 1.0}'),)])
async def test_an_answer_is_not_put_behind_another_question(qwen3: PromptBuilder, calls: tuple[ToolCall, ...]) -> None:
    chat = Conversation(qwen3, measured_agent)
    chat.hear(await chat.say(Message("user", "Why?")), REASONING, "Because.", *calls)
    chat.messages[0] = Message("user", "Why not?")
    assert (await chat.say(Message("user", "So?"))).ids == (await qwen3.compose(conversation(chat.messages))).ids


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("calls", [(), (ToolCall("call_1", "read", '{"a": 1.0}'),)])
async def test_a_message_that_is_put_in_before_an_answer_stays(
    qwen3: PromptBuilder, calls: tuple[ToolCall, ...], role: Role
) -> None:
    chat = Conversation(qwen3, measured_agent)
    prompt = await chat.say(Message("system", "Be brief."), Message("user", "Read all the files. " * 40))
    chat.hear(prompt, REASONING, "" if calls else "Because.", *calls)
    chat.messages.insert(2, Message(role, "STOP: never read a.txt, it is secret."))
    prompt = await chat.say(Message("tool", "Done"))
    assert "never read a.txt" in qwen3._tokenizer.decode(prompt.ids)
    assert prompt.ids == (await qwen3.compose(conversation(chat.messages))).ids


async def test_behind_an_answer_that_was_not_put_back_the_next_one_is(qwen3: PromptBuilder) -> None:
    """The text before it was not the mark of the first, which stands there in an attempt to put both back."""
    chat = Conversation(qwen3, measured_agent)
    chat.hear(await chat.say(Message("user", "Why?")), REASONING, "", ToolCall("call_1", "read", '{"a": 1.0}'))
    chat.messages[0] = Message("user", "Why not?")
    prompt = await chat.say(Message("tool", "1"))
    assert prompt.ids == (await qwen3.compose(conversation(chat.messages))).ids
    so_far = chat.hear(prompt, REASONING, "", ToolCall("call_2", "read", '{"a": 1.0}'))
    prompt = await chat.say(Message("tool", "2"))
    assert prompt.ids[: len(so_far)] == so_far


async def test_another_session_gets_no_reasoning_but_finds_its_calls(qwen3: PromptBuilder) -> None:
    chat = Conversation(qwen3, measured_agent)
    prompt = await chat.say(Message("user", "Why?"))
    chat.hear(prompt, REASONING, "Because.")
    chat.session = "another"
    prompt = await chat.say(Message("user", "Read"))
    assert prompt.ids == (await qwen3.compose(conversation(chat.messages))).ids
    so_far = chat.hear(prompt, REASONING, "", ToolCall("call_1", "read", "{}"))
    chat.session = "a third"
    prompt = await chat.say(Message("tool", ""))
    assert prompt.ids[: len(so_far)] == so_far


async def test_a_last_turn_of_the_assistant_is_put_back_too(qwen3: PromptBuilder) -> None:
    chat = Conversation(qwen3, verbatim)
    so_far = chat.hear(await chat.say(Message("user", "Why?")), REASONING, "Because.")
    prompt = await chat.builder.compose(
        conversation(chat.messages), chat.memory.recall("model", "one", chat.messages), with_message_ends=True
    )
    assert prompt.ids[: len(so_far)] == so_far
    decode = qwen3._tokenizer.decode
    assert decode(prompt.ids[len(so_far) :]) == "<|im_end|>\n<|im_start|>assistant\n"
    (ends,) = prompt.message_ends  # it begins before its ids, in no text that could be looked at alone
    assert decode(prompt.ids[ends:]) == "<|im_start|>assistant\n"


async def test_message_ends_of_a_prompt_with_answers_put_back(qwen3: PromptBuilder) -> None:
    chat = Conversation(qwen3, measured_agent)
    chat.hear(await chat.say(Message("user", "Read")), REASONING, "", ToolCall("call_1", "read", "{}"))
    chat.messages.append(Message("tool", "Done"))
    recalled = chat.memory.recall("model", "one", chat.messages)
    prompt = await qwen3.compose(conversation(chat.messages), recalled, with_message_ends=True)
    begins, ends = prompt.message_ends
    decode = qwen3._tokenizer.decode
    assert decode(prompt.ids[begins:]) == "Done\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    assert decode(prompt.ids[ends:]) == "<|im_start|>assistant\n"


PLAIN_TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
UNSAFE = {
    "JSON": "<|im_start|>{{ m.role }}\n{{ m.content | tojson }}<|im_end|>\n",
    "HTML": "<|im_start|>{{ m.role }}\n{{ m.content | e }}<|im_end|>\n",
    "capitals": "<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n",
    "twice": "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{{ m.content }}<|im_end|>\n",
    "a part": "<|im_start|>{{ m.role }}\n{{ m.content[:9] }}<|im_end|>\n",
    "nothing at all": "<|im_start|>{{ m.role }}\n<|im_end|>\n",
    "no token behind it": "<|im_start|>{{ m.role }}\n{{ m.content }}\n<|im_end|>\n",
    "no token around it": "{{ m.content }}",
    "a long heading": "<|im_start|>{{ m.role }}\n{{ 'word ' * 99 }}{{ m.content }}<|im_end|>\n",
    "another heading": "<|im_end|>{{ m.role }}\n{{ m.content }}<|im_end|>\n",
}


@pytest.mark.parametrize("turn", UNSAFE)
async def test_where_ids_would_be_wrong_the_text_is_as_the_client_sent_it(builder_of: BuilderOf, turn: str) -> None:
    prompts = builder_of(
        f"{{% for m in messages %}}{UNSAFE[turn]}{{% endfor %}}{{% if add_generation_prompt %}}[/INST]{{% endif %}}"
    )
    chat = Conversation(prompts, verbatim)
    chat.hear(await chat.say(Message("user", "Why?")), "", "Because it is so.")
    assert (await chat.say(Message("user", "So?"))).ids == (await prompts.compose(conversation(chat.messages))).ids


async def test_an_order_of_its_own_is_left_to_the_template(builder_of: BuilderOf) -> None:
    prompts = builder_of(f"{{% for m in messages | reverse %}}{PLAIN_TURN}{{% endfor %}}")
    chat = Conversation(prompts, verbatim)
    for word in ("one", "two"):
        chat.hear(await chat.say(Message("user", "Why?")), "", word)
    assert (await chat.say(Message("user", "So?"))).ids == (await prompts.compose(conversation(chat.messages))).ids


async def test_what_the_template_drops_is_dropped(builder_of: BuilderOf) -> None:
    prompts = builder_of(
        f"{{% for m in messages[-3:] %}}{PLAIN_TURN}{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = Conversation(prompts, verbatim)
    chat.hear(await chat.say(Message("user", "first")), "", "dropped")
    await chat.say(Message("user", "second"))
    prompt = await chat.say(Message("user", "third"), Message("user", "fourth"))
    assert prompt.ids == (await prompts.compose(conversation(chat.messages))).ids
    assert "dropped" not in prompts._tokenizer.decode(prompt.ids)


async def test_a_template_that_wants_to_see_the_calls_still_gets_other_answers_back(builder_of: BuilderOf) -> None:
    """As gpt-oss's and Mistral's do: they take a tool's answer only behind a turn with calls."""
    prompts = builder_of(
        "{% set seen = namespace(calls=false) %}{% for m in messages %}"
        "{% if m.tool_calls %}{% set seen.calls = true %}{% endif %}"
        "{% if m.role == 'tool' and not seen.calls %}{{ raise_exception('no call') }}{% endif %}"
        f"{PLAIN_TURN}{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
    )
    chat = Conversation(prompts, verbatim)
    so_far = chat.hear(await chat.say(Message("user", "Why?")), "", "Because.")
    prompt = await chat.say(Message("user", "Read"))
    assert prompt.ids[: len(so_far)] == so_far
    chat.hear(prompt, "", "Yes.", ToolCall("call_1", "read", "{}"))
    prompt = await chat.say(Message("tool", "Done"))
    assert prompt.ids[: len(so_far)] == so_far
    assert "Yes.<|im_end|>\n<|im_start|>tool\nDone" in prompts._tokenizer.decode(prompt.ids)


async def test_answers_go_back_into_a_conversation_whose_turns_are_joined(builder_of: BuilderOf) -> None:
    prompts = builder_of(
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}"
        f"{{% endif %}}{PLAIN_TURN}{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
    )
    chat = Conversation(prompts, measured_agent)
    prompt = await chat.say(Message("system", "Be brief."), Message("user", "Read"), Message("user", "it"))
    so_far = chat.hear(prompt, REASONING, "", ToolCall("call_1", "read", '{"a": 1.0}'))
    prompt = await chat.say(Message("tool", "Done"), Message("system", "Go on"), Message("user", "now"))
    assert prompt.ids[: len(so_far)] == so_far
    so_far = chat.hear(prompt, REASONING, "It is so.")
    prompt = await chat.say(Message("user", "Why"), Message("user", "then?"))
    assert prompt.ids[: len(so_far)] == so_far


MARKUP = ["<|im_start|>", "<|im_end|>", "\n", "assistant\n", "<think>", "</think>", "\ue000'\"", "\ue001", ":1\ue001"]
hostile_texts = st.lists(
    st.sampled_from(MARKUP) | st.text(st.characters(codec="utf-8") | st.characters(categories=["Co"]), max_size=8),
    max_size=8,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(questions=st.lists(hostile_texts, min_size=2, max_size=4))
@pytest.mark.parametrize("template", ["qwen3", "trims contents"])
async def test_no_text_of_a_client_changes_what_is_put_back_or_is_changed_by_it(
    builder_of: BuilderOf, template: str, questions: list[str]
) -> None:
    """Answers whose ids are those of their text: the prompt must be what it is without a memory."""
    prompts = builder_of(TEMPLATES[template])
    memory = AnswerMemory()
    messages: list[Message] = []
    for question in questions:
        messages.append(Message("user", question))
        prompt = await prompts.compose(conversation(messages), memory.recall("m", "s", messages))
        assert prompt.ids == (await prompts.compose(conversation(messages))).ids
        assert prompt.place
        text = f"Answer {len(messages)}"
        memory.remember("m", "s", messages, prompt.place, encoded(prompts, text), text)
        messages.append(Message("assistant", text))
        assert memory.recall("m", "another", messages) == {}
    messages.append(Message("user", "Bye"))
    assert (await prompts.compose(conversation(messages), memory.recall("m", "s", messages))).ids == (
        await prompts.compose(conversation(messages))
    ).ids


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(hostile_texts, min_size=2, max_size=4))
async def test_answers_of_any_text_stay_what_they_were(qwen3: PromptBuilder, texts: list[str]) -> None:
    """The model too may write markup; what follows is not moved by it."""
    memory = AnswerMemory()
    messages: list[Message] = []
    so_far: list[int] = []
    for text in texts:
        messages.append(Message("user", f"{len(messages)}"))
        prompt = await qwen3.compose(conversation(messages), memory.recall("m", "s", messages))
        assert prompt.ids[: len(so_far)] == so_far
        ids = [token for letter in text for token in encoded(qwen3, letter)]
        memory.remember("m", "s", messages, prompt.place, ids, text)
        so_far = prompt.ids + ids if ids else []
        messages.append(Message("assistant", text))
