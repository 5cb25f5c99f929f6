"""`mlx-gateway service install|status|uninstall`: runs the server whenever the user is logged in.

A launchd agent on macOS (launchd.plist(5)), a systemd user unit on Linux (systemd.service(5)); nothing needs root.
"""

import argparse
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.commands.output import say
from gateway.errors import ConfigError

LABEL = "mlx-gateway"
STOP_MARGIN_SECONDS = 30
"""What the service manager waits beyond the grace period before it kills."""


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """`start`, `stop` and `status` are commands, each a list of words."""

    path: Path
    content: bytes
    start: Sequence[Sequence[str]]
    stop: Sequence[Sequence[str]]
    status: Sequence[str]


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("service", help="run the server whenever you are logged in")
    add_config_options(parser)
    parser.add_argument("action", choices=("install", "status", "uninstall"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    grace = round(configuration(options).server.shutdown_grace_seconds)
    command = [sys.executable, "-m", "gateway", "serve"]
    if options.config:
        command += ["--config", str(options.config.resolve())]
    make = launchd_agent if sys.platform == "darwin" else systemd_unit
    service = make(command, grace + STOP_MARGIN_SECONDS, Path.home())
    match options.action:
        case "install":
            return _install(service)
        case "uninstall":
            return _uninstall(service)
        case _:
            return _status(service)


def launchd_agent(command: Sequence[str], stop_seconds: int, home: Path) -> ServiceFile:
    log = str(home / "Library" / "Logs" / f"{LABEL}.log")
    path = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    content = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": stop_seconds,
        "ProcessType": "Interactive",
        "StandardErrorPath": log,
        "StandardOutPath": log,
    }
    load, unload = ["launchctl", "load", "-w", str(path)], ["launchctl", "unload", "-w", str(path)]
    return ServiceFile(path, plistlib.dumps(content), [load], [unload], ["launchctl", "list", LABEL])


def systemd_unit(command: Sequence[str], stop_seconds: int, home: Path) -> ServiceFile:
    path = home / ".config" / "systemd" / "user" / f"{LABEL}.service"
    content = f"""[Unit]
Description=mlx-gateway, an inference gateway for IDE agents
After=network.target

[Service]
ExecStart={" ".join(map(_systemd_word, command))}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
TimeoutStopSec={stop_seconds}
LimitNOFILE=65536

[Install]
WantedBy=default.target
"""
    control = ["systemctl", "--user"]
    unit = path.name
    return ServiceFile(
        path,
        content.encode(),
        [[*control, "daemon-reload"], [*control, "enable", "--now", unit]],
        [[*control, "disable", "--now", unit]],
        [*control, "status", "--no-pager", unit],
    )


def _install(service: ServiceFile) -> int:
    try:
        service.path.parent.mkdir(parents=True, exist_ok=True)
        service.path.write_bytes(service.content)
    except OSError as error:
        raise ConfigError(f"Cannot write {service.path}: {error.strerror}") from error
    say(f"wrote {service.path}")
    return max(map(_run, service.start))


def _uninstall(service: ServiceFile) -> int:
    if not service.path.exists():
        say(f"not installed: there is no {service.path}")
        return 0
    for command in service.stop:
        _run(command)
    service.path.unlink()
    say(f"removed {service.path}")
    return 0


def _status(service: ServiceFile) -> int:
    if not service.path.exists():
        say(f"not installed: there is no {service.path}")
        return 1
    say(f"installed: {service.path}")
    return _run(service.status)


def _run(command: Sequence[str]) -> int:
    """Where the program is not there, says what to run; that is no failure."""
    line = " ".join(command)
    if shutil.which(command[0]) is None:
        say(f"{command[0]} is not here; run this where it is: {line}")
        return 0
    say(f"$ {line}")
    return subprocess.run(command, check=False).returncode  # noqa: S603


def _systemd_word(word: str) -> str:
    """Quoted as systemd.service(5), "Command lines", and systemd.unit(5), "Specifiers", ask for."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
