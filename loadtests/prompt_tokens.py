"""The token ids of a prompt, by the model's own files without mlx: where two prompts part, what is new in one."""

import json
from collections.abc import Sequence
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from loadtests.streaming_client import ChatStream, Message
from loadtests.turns import UnusableRun


class PromptTokenizer:
    """Of one model folder, whose chat template must need nothing but the messages and bos."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string(config["chat_template"])
        self._bos = config.get("bos_token", "")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Up to where the answer begins."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = self._template.render(messages=turns, bos_token=self._bos, add_generation_prompt=True)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def ids_of(self, messages: Sequence[Message], stream: ChatStream) -> list[int]:
        """The same; raises `UnusableRun` if the server that answered with `stream` counts otherwise."""
        ids = self.ids(messages)
        if len(ids) != stream.prompt_tokens:
            raise UnusableRun(f"A prompt of {len(ids)} tokens has {stream.prompt_tokens} for the server.")
        return ids


def common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """How far both begin alike."""
    differing = (index for index, (mine, theirs) in enumerate(zip(one, other, strict=False)) if mine != theirs)
    return next(differing, min(len(one), len(other)))
