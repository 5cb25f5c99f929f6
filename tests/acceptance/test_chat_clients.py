"""Agents that speak chat completions. Each must read a file with its own tool and edit it with its own tool."""

import json
from pathlib import Path

from tests.acceptance.conftest import MODEL, StartScene
from tests.acceptance.installed import node, npm_packages
from tests.acceptance.task import PROMPT, WORD, Task, call, tool_rules

KEY = "no-key-is-needed"


def test_cline(scene: StartScene, task: Task) -> None:
    cline = next(npm_packages("cline").glob("@cline/cli-*/bin/cline"))
    file = str(task.file)
    read = call("read_files", files=[{"path": file}])
    edit = call("editor", path=file, old_text="answer: unknown", new_text=f"answer: {WORD}")
    gateway = scene(tool_rules(read, edit))
    data = str(gateway.home / "cline")
    provider = ("-p", "openai-compatible", "-k", KEY, "-m", MODEL, "-b", f"{gateway.url}/v1")
    gateway.run(cline, "auth", *provider, "--data-dir", data)
    chosen = ("-P", "openai-compatible", "-k", KEY, "-m", MODEL)
    task.check(gateway.run(cline, "--data-dir", data, *chosen, "--auto-approve", "true", "--json", PROMPT))
    gateway.check_reuse()


def test_continue(scene: StartScene, task: Task) -> None:
    cli = npm_packages("continue") / "@continuedev" / "cli" / "dist" / "cn.js"
    file = str(task.file)
    read = call("Read", filepath=file)
    edit = call("Edit", file_path=file, old_string="answer: unknown", new_string=f"answer: {WORD}")
    gateway = scene(tool_rules(read, edit))
    model = {
        "name": MODEL,
        "provider": "openai",
        "model": MODEL,
        "apiBase": f"{gateway.url}/v1",
        "apiKey": KEY,
        "roles": ["chat", "edit", "apply"],
        "capabilities": ["tool_use"],
    }
    # JSON is YAML too.
    config = _written(
        gateway.home / "config.yaml", {"name": "local", "version": "0.0.1", "schema": "v1", "models": [model]}
    )
    off = {"CONTINUE_TELEMETRY_ENABLED": "0"}
    task.check(gateway.run(node(), cli, "-p", "--auto", "--config", config, PROMPT, **off))
    gateway.check_reuse()


def test_opencode(scene: StartScene, task: Task) -> None:
    opencode = next(npm_packages("opencode").glob("opencode-*/bin/opencode"))
    file = str(task.file)
    read = call("read", filePath=file)
    edit = call("edit", filePath=file, oldString="answer: unknown", newString=f"answer: {WORD}")
    gateway = scene(tool_rules(read, edit))
    options = {"baseURL": f"{gateway.url}/v1", "apiKey": KEY}
    models = {MODEL: {"name": MODEL, "tool_call": True, "limit": {"context": 131072, "output": 8192}}}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "gateway", "options": options, "models": models}
    config = {
        "provider": {"gateway": provider},
        "model": f"gateway/{MODEL}",
        "small_model": f"gateway/{MODEL}",
        "autoupdate": False,
        "share": "disabled",
        "permission": "allow",
    }
    _written(task.folder / "opencode.json", config)
    off = {f"OPENCODE_DISABLE_{what}": "1" for what in ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD")}
    task.check(gateway.run(opencode, "run", PROMPT, **off))
    gateway.check_reuse()


def test_qwen_code(scene: StartScene, task: Task) -> None:
    qwen = npm_packages("qwen_code") / "@qwen-code" / "qwen-code" / "cli-entry.js"
    file = str(task.file)
    read = call("read_file", file_path=file)
    edit = call("edit", file_path=file, old_string="answer: unknown", new_string=f"answer: {WORD}")
    gateway = scene(tool_rules(read, edit))
    settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{gateway.url}/v1", "OPENAI_MODEL": MODEL}
    task.check(gateway.run(node(), qwen, "--auth-type", "openai", "--yolo", "-p", PROMPT, **settings))
    gateway.check_reuse()


def _written(file: Path, value: object) -> Path:
    file.write_text(json.dumps(value))
    return file
