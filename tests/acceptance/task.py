"""The task that every client does: read a file, and write into it a word that only the file told.

The word is drawn anew for each test, and the model's script has a place for it instead: so the file ends as expected
only if the client read it, the gateway brought what was read to the model, and the call that edits came back whole.
"""

import json
import secrets
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.acceptance.scripted_model import Rule, answered_prompts

FILE = "notes.txt"
PROMPT = (
    f"Read the file {FILE} in the current folder. Then replace the word unknown in it with the keyword that it names, "
    "and say when you are done."
)
DONE = "The answer is in the file now."
WORD = "<<word>>"
"""In an answer of the script: the word that was read."""

MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>")
"""How the model writes what is no text for the reader."""


class Task:
    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self._model = model
        self.word = "".join(secrets.choice(string.ascii_lowercase) for _ in range(12))
        folder.mkdir()
        self.file.write_text(content(self.word, "unknown"))

    @property
    def file(self) -> Path:
        return self.folder / FILE

    def check(self, output: str, said: str = DONE) -> None:
        """Fails with all that tells why, unless the file ended as expected and the client showed what was said."""
        explained = f"{output}\n{self.last_answer()}"
        assert self.file.read_text() == content(self.word, self.word), explained
        assert said in output, explained
        assert not [mark for mark in MARKS if mark in output], explained

    def last_answer(self) -> str:
        """What the model was asked last, and what it answered, for people to read."""
        answered = answered_prompts(self._model)
        last = answered[-1][-6000:] if answered else ""
        return f"The model answered {len(answered)} prompts. The last one and its answer:\n{last}"


def content(word: str, answer: str) -> str:
    return f"keyword: {word}\nanswer: {answer}\n"


def tool_rules(read: str, edit: str) -> Sequence[Rule]:
    """A script for clients that use tools: `read` and `edit` are the answers in which they are called."""
    return [
        ("<tool_response>.*<tool_response>", thinking("Both calls are done.") + DONE),
        (r"<tool_response>.*keyword: (?P<word>[a-z]+)", edit),
        ("<tools>", read),
        ("", "A word in a file"),  # a title for the conversation, and whatever else is asked without tools
    ]


def thinking(text: str) -> str:
    return f"<think>\n{text}\n</think>\n\n"


def call(name: str, **arguments: Any) -> str:
    """As Qwen3 writes it, with reasoning and a word to the reader before it."""
    written = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{thinking(f'I need {name} for that.')}I call {name}.\n<tool_call>\n{written}\n</tool_call>"
