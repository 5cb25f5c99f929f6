"""Prompts with the demo model's own template, and with hostile ones."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gateway.chat.prompt import PromptBuilder
from gateway.errors import InvalidRequest
from gateway.generation.request import Message


def builder(folder: Path) -> PromptBuilder:
    from gateway.engine.model_loader import load_text_side

    return PromptBuilder(load_text_side(folder).tokenizer)


@pytest.fixture(scope="session")
def demo_builder(demo_folder: Path) -> PromptBuilder:
    return builder(demo_folder)


def with_template(demo_folder: Path, folder: Path, template: str) -> PromptBuilder:
    shutil.copytree(demo_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    return builder(folder)


async def test_the_prompt_is_the_template_up_to_the_answer(demo_builder: PromptBuilder) -> None:
    ids = await demo_builder.build([Message("system", "Be brief."), Message("user", "Hi")])
    text = demo_builder._tokenizer.decode(ids)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


async def test_long_prompts_side_by_side_are_what_they_are_alone(demo_builder: PromptBuilder) -> None:
    """They are tokenised on several threads at once, with one tokenizer."""
    texts = [f"{number} word" * 4_000 for number in range(8)]
    together = await asyncio.gather(*(demo_builder.build([Message("user", text)]) for text in texts))
    assert together == [demo_builder._build([Message("user", text)]) for text in texts]


async def test_the_last_message_begins_and_ends_where_the_prompt_may_change(demo_builder: PromptBuilder) -> None:
    messages = [Message("system", "Be brief."), Message("user", "Hi there, what is it?")]
    ids = await demo_builder.build(messages)
    begins, ends = await demo_builder.message_ends(messages, ids)
    decode = demo_builder._tokenizer.decode
    assert decode(ids[:begins]) == "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert decode(ids[ends:]) == "<|im_start|>assistant\n"
    edited = await demo_builder.build([messages[0], Message("user", "Another question")])
    assert edited[:begins] == ids[:begins]


async def test_a_place_that_a_template_does_not_show_is_left_out(demo_folder: Path, tmp_path: Path) -> None:
    """It takes no conversation that ends with the system's word, and writes nothing before the answer."""
    template = (
        "{% if messages[-1]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    prompts = with_template(demo_folder, tmp_path / "model", template)
    messages = [Message("system", "Be brief."), Message("user", "Hi")]
    assert await prompts.message_ends(messages, await prompts.build(messages)) == ()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages[9]['content'] }}", "no element 9"),
        ("{{ messages[0]['content'] + 1 }}", "str"),
    ],
)
async def test_a_template_that_fails_is_a_clear_refusal(
    demo_folder: Path, tmp_path: Path, template: str, message: str
) -> None:
    prompts = with_template(demo_folder, tmp_path / "model", template)
    with pytest.raises(InvalidRequest, match=message) as caught:
        await prompts.build([Message("user", "Hi")])
    assert caught.value.param == "messages"
