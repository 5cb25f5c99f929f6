"""A model that can fill gaps, made of one that cannot."""

import os
from pathlib import Path

FIM_TOKENS = {"<repo_name>": "<|fim_prefix|>", "<reponame>": "<|fim_suffix|>", "<filename>": "<|fim_middle|>"}
"""Tokens of the demo model's tokenizer (ids 3, 4 and 6), and what they are called in the model that fills gaps."""


def write_fim_model(folder: Path, of: Path) -> None:
    """The same weights with another tokenizer."""
    folder.mkdir(parents=True)
    for file in of.iterdir():
        if "tokenizer" in file.name:
            text = file.read_text()
            for old, new in FIM_TOKENS.items():
                text = text.replace(f'"{old}"', f'"{new}"')
            (folder / file.name).write_text(text)
        elif "manifest" not in file.name:
            os.link(file, folder / file.name)
