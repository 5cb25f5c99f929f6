"""Prompt builders for the demo model's tokenizer with other templates."""

import json
import shutil
from pathlib import Path
from typing import Any

from gateway.chat.prompt import PromptBuilder

QWEN3 = (Path(__file__).parent / "qwen3.jinja").read_text()

OTHER_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "[/INST]")
"""Added behind the demo model's own as Qwen3's are: not special, so that they are text."""


def builder(folder: Path) -> PromptBuilder:
    from gateway.engine.model_loader import load_text_side

    return PromptBuilder(load_text_side(folder).tokenizer)


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
