"""What the doctor finds on this machine, in stores with something wrong, and what it changes on a Mac."""

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.commands.doctor import apply_wired_limit
from gateway.commands.doctor_checks import checks_of_machine
from gateway.hardware.apple_silicon import mac_from
from gateway.hardware.pressure import Pressure, Reading
from tests.conftest import Server
from tests.hardware.test_apple_silicon import sysctl


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_GATEWAY_STORE_DIRECTORY", str(tmp_path / "store"))
    monkeypatch.setenv("MLX_GATEWAY_DOWNLOADS_DISK_FREE_BYTES", "0")
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("MLX_GATEWAY_SERVER_PORT", str(free.getsockname()[1]))


def failed(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """`memory` depends on what else runs on this machine."""
    status = main(["doctor", "--json"])
    names = {one["check"] for one in json.loads(capsys.readouterr().out) if not one["sound"]}
    assert status == (1 if names else 0)
    return names - {"memory"}


def test_a_sound_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(capsys) == set()
    main(["doctor"])
    said = capsys.readouterr().out
    assert "ok   mlx: " in said
    assert " is free" in said


def test_a_taken_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", int(os.environ["MLX_GATEWAY_SERVER_PORT"]))):
        assert failed(capsys) == {"port"}


def test_a_server_that_answers(
    tiny_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_GATEWAY_SERVER_PORT", tiny_server.url.rsplit(":", 1)[1])
    assert failed(capsys) == set()


def test_keys_that_others_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "store" / "keys.json"
    keys.parent.mkdir()
    keys.write_text("{}")
    keys.chmod(0o644)
    assert failed(capsys) == {"secrets"}
    keys.chmod(0o600)
    assert failed(capsys) == set()


def test_a_blas_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLX_GATEWAY_HARDWARE_BLAS", "/no/such/library.so")
    assert failed(capsys) == {"mlx"}


def test_a_configuration_that_is_not_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[engine]\nmax_running = 0\n")
    assert main(["doctor", "--config", str(file)]) == 1
    assert "FAIL configuration: " in capsys.readouterr().out


def test_memory_pressure_and_a_macs_wired_limit_are_said() -> None:
    found = {
        one.check: one for one in checks_of_machine(mac_from(sysctl("M4 Max", 64, 12, 4)), Reading(Pressure.WARNING))
    }
    assert not found["memory"].sound
    assert "iogpu.wired_limit_mb=57344" in found["wired limit"].message


@pytest.mark.parametrize(("answer", "runs"), [("y", True), ("", False), ("no", False)])
def test_nothing_is_applied_without_a_yes(answer: str, runs: bool, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[Sequence[str]] = []

    def run_command(command: Sequence[str]) -> int:
        ran.append(command)
        return 0

    assert apply_wired_limit(mac_from(sysctl("M3 Ultra", 512, 24, 8)), lambda _: answer, run_command) == 0
    assert ran == ([["sudo", "sysctl", "iogpu.wired_limit_mb=458752"]] if runs else [])
    assert "To undo it: sudo sysctl iogpu.wired_limit_mb=0" in capsys.readouterr().out
