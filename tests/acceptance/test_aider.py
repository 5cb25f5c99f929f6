"""aider edits by text instead of tools: the model asks for a file, and answers with a block to search and replace."""

import subprocess

from tests.acceptance.conftest import MODEL, StartScene
from tests.acceptance.installed import pip_packages
from tests.acceptance.task import FILE, WORD, Task, thinking

PROMPT = "Replace the word unknown in my notes with the keyword that they name."

SAID = "The keyword goes where the answer is missing."

EDIT = f"""{thinking("I have seen the file.")}{SAID}

{FILE}
```
<<<<<<< SEARCH
answer: unknown
=======
answer: {WORD}
>>>>>>> REPLACE
```
"""

RULES = [
    ("commit message", "docs: the answer is known"),
    (r"keyword: (?P<word>[a-z]+)\s+answer: unknown", EDIT),
    ("", thinking("I have not seen any file.") + f"Please add {FILE} to the chat."),
]


def test_aider(scene: StartScene, task: Task) -> None:
    python = pip_packages("aider")
    _commit_all(task)  # aider offers files of a repository only
    gateway = scene(RULES)
    quiet = ("--no-analytics", "--no-check-update", "--no-show-release-notes", "--no-show-model-warnings")
    model = ("--model", f"openai/{MODEL}", "--edit-format", "diff")
    output = gateway.run(
        *(python, "-m", "aider", *model, *quiet, "--no-gitignore", "--yes-always", "--message", PROMPT),
        OPENAI_API_BASE=f"{gateway.url}/v1",
        OPENAI_API_KEY="no-key-is-needed",
    )
    task.check(output, SAID)
    assert _git(task, "log", "-1", "--format=%s") == "docs: the answer is known\n", output


def _commit_all(task: Task) -> None:
    _git(task, "init", "--quiet")
    _git(task, "config", "user.name", "A person")
    _git(task, "config", "user.email", "person@example.org")
    _git(task, "add", ".")
    _git(task, "commit", "--quiet", "--message", "notes")


def _git(task: Task, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=task.folder, capture_output=True, text=True, check=True)
    return done.stdout
