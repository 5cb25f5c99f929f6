"""codex speaks /v1/responses. Its tool for a model that it does not know is a shell, in which it has an apply_patch."""

from tests.acceptance.conftest import MODEL, StartScene
from tests.acceptance.installed import npm_packages
from tests.acceptance.task import FILE, PROMPT, WORD, Task, call, tool_rules

CONFIG = """
model = "{model}"
model_provider = "gateway"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.gateway]
name = "gateway"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "GATEWAY_KEY"
request_max_retries = 0
stream_max_retries = 0
"""

PATCH = f"""apply_patch <<'END'
*** Begin Patch
*** Update File: {FILE}
@@
-answer: unknown
+answer: {WORD}
*** End Patch
END"""


def test_codex(scene: StartScene, task: Task) -> None:
    codex = next(npm_packages("codex").glob("@openai/codex-*/vendor/*/bin/codex"))
    read = call("exec_command", cmd=f"cat {FILE}")
    edit = call("exec_command", cmd=PATCH)
    gateway = scene(tool_rules(read, edit))
    folder = gateway.home / ".codex"
    folder.mkdir()
    (folder / "config.toml").write_text(CONFIG.format(model=MODEL, url=gateway.url))
    command = (codex, "exec", "--skip-git-repo-check", "--json", PROMPT)
    task.check(gateway.run(*command, GATEWAY_KEY="no-key-is-needed"))
    gateway.check_reuse()
