"""Claude Code speaks /v1/messages."""

from tests.acceptance.conftest import MODEL, StartScene
from tests.acceptance.installed import npm_packages
from tests.acceptance.task import PROMPT, WORD, Task, call, tool_rules

QUIET = (
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
    "DISABLE_AUTOUPDATER",
    "DISABLE_ERROR_REPORTING",
    "DISABLE_TELEMETRY",
)


def test_claude_code(scene: StartScene, task: Task) -> None:
    claude = next(npm_packages("claude_code").glob("@anthropic-ai/claude-code-*/claude"))
    file = str(task.file)
    read = call("Read", file_path=file)
    edit = call("Edit", file_path=file, old_string="answer: unknown", new_string=f"answer: {WORD}")
    gateway = scene(tool_rules(read, edit))
    settings = {
        "ANTHROPIC_BASE_URL": gateway.url,
        "ANTHROPIC_AUTH_TOKEN": "no-key-is-needed",
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
    }
    allowed = ("--allowedTools", "Read,Edit")
    task.check(gateway.run(claude, "-p", PROMPT, *allowed, **settings, **dict.fromkeys(QUIET, "1")))
    gateway.check_reuse()
