"""SIGHUP reads the configuration file again."""

import json
import signal
from pathlib import Path

import httpx

from tests.conftest import StartServer


def test_what_changed_is_said_and_what_can_be_is_applied(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[log]\nlevel = "info"\n')
    server = start_server("--config", str(file), "--model", str(tiny_folder))
    file.write_text('[log]\nlevel = "info"\n[engine]\nmax_running = 3\n')
    server.process.send_signal(signal.SIGHUP)
    assert "16 -> 3, in force after a restart" in server.wait_for_log("engine.max_running")
    file.write_text("[engine]\nmax_running = 0\n")
    server.process.send_signal(signal.SIGHUP)
    assert "max_running" in server.wait_for_log("the configuration stays as it was")
    file.write_text('[log]\nlevel = "warning"\n[engine]\nmax_running = 3\n')
    server.process.send_signal(signal.SIGHUP)
    assert "info -> warning, in force" in server.wait_for_log("log.level")
    assert server.stop() == 0
    assert "stopped" not in server.log  # an info line, which the new level leaves out


def test_a_models_options_and_the_limits_under_pressure_change_at_once(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    model = f"[model]\nid = 'tiny'\nsource = {json.dumps(str(tiny_folder))}\n"
    file.write_text(model)
    server = start_server("--config", str(file))
    file.write_text(f"{model}pinned = true\naliases = ['small']\n[hardware]\npressure_long_tokens = 77\n")
    server.process.send_signal(signal.SIGHUP)
    line = server.wait_for_log("hardware.pressure_long_tokens")
    assert "4096 -> 77, in force" in line
    assert "restart" not in line
    assert "changed, in force after a restart" in server.wait_for_log("models.tiny.aliases")
    assert "False -> True, in force" in server.wait_for_log("models.tiny.pinned")
    with httpx.Client(base_url=server.url, timeout=30) as client:
        (found,) = client.get("/admin/models").json()["models"]
        assert found["pinned"] is True
