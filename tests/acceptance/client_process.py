"""Runs a client headless: a home of its own, nothing to read from, and no network but this machine."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NOWHERE = "http://127.0.0.1:9"
"""A proxy that refuses every connection."""

CLIENT_SECONDS = 150


@dataclass(frozen=True)
class Ended:
    """`status` is None if the client had to be stopped."""

    status: int | None
    output: str
    errors: str


def run_client(
    command: Sequence[str | Path],
    folder: Path,
    home: Path,
    settings: Mapping[str, str],
    seconds: float = CLIENT_SECONDS,
) -> Ended:
    """Until it ends or its time is over. `settings` are environment variables; it sees no others of ours but PATH."""
    home.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env={**_environment(home), **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # so that what it starts ends with it
    )
    try:
        output, errors = process.communicate(timeout=seconds)
        return Ended(process.returncode, output, errors)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        return Ended(None, output, errors)


def _environment(home: Path) -> dict[str, str]:
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOWHERE)
    exceptions = {"NO_PROXY": "127.0.0.1,localhost"}
    either_case = proxies | exceptions
    either_case |= {name.lower(): value for name, value in either_case.items()}
    folders = {
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_DATA_HOME": str(home / ".local" / "share"),
        "XDG_STATE_HOME": str(home / ".local" / "state"),
    }
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "CI": "1",
        "DO_NOT_TRACK": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **folders,
        **either_case,
    }
