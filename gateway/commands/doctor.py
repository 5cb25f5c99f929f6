"""`mlx-gateway doctor`: looks at what a server needs on this machine, and says what is wrong."""

import argparse
import subprocess
from collections.abc import Callable, Iterator, Sequence

import msgspec

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.commands.doctor_checks import Finding, checks_of_machine, checks_of_server
from gateway.commands.output import say
from gateway.config import HardwareConfig
from gateway.errors import ConfigError
from gateway.hardware.apple_silicon import UNDO, Mac, read_mac, wired_limit_command
from gateway.hardware.monitor import PRESSURE_FILES
from gateway.hardware.pressure import read_hardware


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("doctor", help="look at what the server needs on this machine")
    add_config_options(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--apply", action="store_true", help="on a Mac: raise the memory that the GPU may use (asks first; needs sudo)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.apply:
        return apply_wired_limit(read_mac(), input, _run)
    findings = list(_findings(options))
    if options.json:
        say(msgspec.json.encode(findings).decode())
    else:
        for one in findings:
            say(f"{'ok  ' if one.sound else 'FAIL'} {one.check}: {one.message}")
    return 0 if all(one.sound for one in findings) else 1


def apply_wired_limit(mac: Mac | None, ask: Callable[[str], str], run_command: Callable[[Sequence[str]], int]) -> int:
    """Changes nothing unless the answer is yes. Returns the exit status."""
    command = wired_limit_command(mac) if mac else None
    if command is None:
        say("Nothing to apply: the limit is high enough." if mac else "Nothing to apply: this is no Mac.")
        return 0
    say(f"To be run: {' '.join(command)}\nIt holds until the next restart of this machine. To undo it: {UNDO}")
    if ask("Run it now? [y/N] ").strip().lower() not in ("y", "yes"):
        say("Nothing was changed.")
        return 0
    return run_command(command)


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    limits = HardwareConfig()
    reading = read_hardware(PRESSURE_FILES, limits.pressure_warning_percent, limits.pressure_critical_percent)
    yield from checks_of_machine(read_mac(), reading)
    try:
        config = configuration(options)
    except ConfigError as error:
        yield Finding("configuration", False, str(error))
        return
    yield Finding("configuration", True, "valid")
    yield from checks_of_server(config)


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, check=False).returncode  # noqa: S603
