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
