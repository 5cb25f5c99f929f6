"""Prompt builders for the demo model's tokenizer with other templates."""

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gateway.chat.prompt import PromptBuilder
from gateway.engine.text_limit import TextLimit
from gateway.generation.request import Conversation, Message

QWEN3 = (Path(__file__).parent / "qwen3.jinja").read_text()

OTHER_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "[/INST]")
"""Added behind the demo model's own as Qwen3's are: not special, so that they are text."""

THREADS = ThreadPoolExecutor(2)


def conversation(messages: Sequence[Message]) -> Conversation:
    return Conversation(tuple(messages))


def encoded(builder: PromptBuilder, text: str) -> list[int]:
    ids: list[int] = builder._tokenizer.backend_tokenizer.encode_batch([text], add_special_tokens=False)[0].ids
    return ids


def builder(folder: Path) -> PromptBuilder:
    from gateway.engine.model_loader import load_text_side

    side = load_text_side(folder)
    return PromptBuilder(side.tokenizer, TextLimit(side.context_tokens, side.longest_token_bytes), THREADS)


def builder_with_template(demo_folder: Path, folder: Path, template: str) -> PromptBuilder:
    """`folder` is made, with the demo model's tokenizer and the `OTHER_TOKENS`."""
    shutil.copytree(demo_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    _change_json(folder / "tokenizer_config.json", {"chat_template": template})
    known: list[dict[str, Any]] = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    added = [{"id": 49152 + number, "content": token, **flags} for number, token in enumerate(OTHER_TOKENS)]
    _change_json(folder / "tokenizer.json", {"added_tokens": [*known, *added]})
    return builder(folder)


def _change_json(file: Path, changes: dict[str, Any]) -> None:
    content: dict[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))
