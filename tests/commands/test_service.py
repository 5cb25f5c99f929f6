"""The files that service managers read, and the commands that write and remove them."""

import os
import plistlib
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

from gateway.commands.service import launchd_agent, systemd_unit
from tests.conftest import REPOSITORY

COMMAND = ["/opt/my python", "-m", "gateway", "serve", "--config", '/a/100% "b"$c.toml']


def service(home: Path, action: str) -> subprocess.CompletedProcess[str]:
    """With a home of its own, and no service manager to be found."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", "service", action],
        env={"HOME": str(home), "PATH": str(home), "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_launchd_agent(tmp_path: Path) -> None:
    agent = launchd_agent(COMMAND, 40, tmp_path)
    content = plistlib.loads(agent.content)
    assert content["ProgramArguments"] == COMMAND
    assert content["RunAtLoad"] is True
    assert content["KeepAlive"] == {"SuccessfulExit": False}
    assert content["ExitTimeOut"] == 40
    assert agent.path == tmp_path / "Library" / "LaunchAgents" / f"{content['Label']}.plist"


def test_the_systemd_unit(tmp_path: Path) -> None:
    parser = RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(systemd_unit(COMMAND, 40, tmp_path).content.decode())
    words = '"/opt/my python" "-m" "gateway" "serve" "--config" "/a/100%% \\"b\\"$$c.toml"'
    assert parser["Service"]["ExecStart"] == words
    assert parser["Service"]["TimeoutStopSec"] == "40"
    assert parser["Install"]["WantedBy"] == "default.target"


def test_installed_and_removed_again(tmp_path: Path) -> None:
    assert service(tmp_path, "status").returncode == 1
    installed = service(tmp_path, "install")
    assert installed.returncode == 0, installed.stderr
    file = Path(installed.stdout.splitlines()[0].removeprefix("wrote "))
    assert file.is_relative_to(tmp_path)
    assert file.exists()
    assert "run this where it is: " in installed.stdout
    assert service(tmp_path, "status").returncode == 0
    assert service(tmp_path, "uninstall").returncode == 0
    assert not file.exists()
    assert service(tmp_path, "uninstall").returncode == 0
