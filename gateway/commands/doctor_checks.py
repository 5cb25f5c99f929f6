"""What `mlx-gateway doctor` looks at. Each check says what it found, and what to do if that is wrong."""

import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from msgspec import Struct

import gateway
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.hardware.apple_silicon import UNDO, Mac, wired_limit_command
from gateway.hardware.pressure import Reading
from gateway.model_store.manifest import files_are_whole
from gateway.model_store.store import ModelStore

LEAST_OPEN_FILES = 1024
PROBE_SECONDS = 120
ANSWER_SECONDS = 2.0
DAY_SECONDS = 86400
SECRET_FILES = ("keys.json", "prefixes.key")


class Finding(Struct, frozen=True):
    check: str
    sound: bool
    message: str


def checks_of_machine(mac: Mac | None, reading: Reading) -> Iterator[Finding]:
    yield Finding("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]}; 3.11 or later is needed")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield Finding("open files", files >= LEAST_OPEN_FILES, f"{files}; {LEAST_OPEN_FILES} are needed: ulimit -n 65536")
    early = Path(gateway.__file__).stat().st_mtime - time.time()
    yield Finding("clock", early < DAY_SECONDS, time.strftime("%Y-%m-%d %H:%M:%S %Z; downloads fail if it is wrong"))
    pressure = "is not told here" if reading.pressure is None else f"pressure is {reading.pressure.name.lower()}"
    yield Finding("memory", not reading.pressure, pressure)
    if mac:
        yield Finding("wired limit", True, wired_limit_in_words(mac))


def wired_limit_in_words(mac: Mac) -> str:
    command = wired_limit_command(mac)
    now = f"{mac.wired_limit_bytes // 2**20} MiB" if mac.wired_limit_bytes else "the system's own choice"
    if not command:
        return f"{now}; nothing to change"
    return f"{now}; larger models fit with `{' '.join(command)}` (mlx-gateway doctor --apply; undo: {UNDO})"


def checks_of_server(config: Config) -> Iterator[Finding]:
    yield _mlx(config)
    yield _store(config)
    if config.store_directory.exists():
        yield _models(config)
        yield _secrets(config.store_directory)
        yield _leftovers(config.store_directory)
    yield _port(config)


def _mlx(config: Config) -> Finding:
    command = [sys.executable, "-m", "gateway.hardware.probe", config.hardware.blas]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return Finding("mlx", False, f"a matrix product took more than {PROBE_SECONDS} s")
    try:
        found = json.loads(run.stdout)
    except ValueError:
        said = (run.stderr.strip().splitlines() or ["nothing"])[-1]
        return Finding("mlx", False, f"does not run here (exit status {run.returncode}): {said}")
    return Finding("mlx", found["works"], found["backend"] if found["works"] else "computes wrong results here")


def _store(config: Config) -> Finding:
    folder = config.store_directory
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("store", False, f"{existing} cannot be written to; set store.directory or change its rights")
    free, least = shutil.disk_usage(existing).free, config.downloads.disk_free_bytes
    said = f"{folder}, {free / 2**30:.1f} GiB free; downloads stop at {least / 2**30:.1f} GiB"
    return Finding("store", free > least, said)


def _models(config: Config) -> Finding:
    store = ModelStore(config.store_directory, config.downloads)
    try:
        models = store.list_models()
        broken = [m.model_id for m in models if m.manifest and not files_are_whole(m.folder, m.manifest)]
    except GatewayError as error:
        return Finding("models", False, str(error))
    finally:
        store.close()
    if broken:
        return Finding("models", False, f"files are missing of {', '.join(broken)}; mlx-gateway verify --repair")
    return Finding("models", True, f"{len(models)} in the store, with all their files")


def _secrets(store: Path) -> Finding:
    """Files that hold secrets are their owner's only."""
    files = [store / name for name in SECRET_FILES]
    readable = [str(file) for file in files if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077]
    if readable:
        return Finding("secrets", False, f"others may read {', '.join(readable)}; chmod 600 {' '.join(readable)}")
    return Finding("secrets", True, "only their owner can read them")


def _leftovers(store: Path) -> Finding:
    incoming = store / "incoming"
    left = list(incoming.iterdir()) if incoming.exists() else []
    said = f"{len(left)} unfinished downloads or imports; `mlx-gateway gc --downloads` removes them" if left else "none"
    return Finding("leftovers", True, said)


def _port(config: Config) -> Finding:
    host, port = config.server.host, config.server.port
    where = f"{host}:{port}"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if _server_answers(config):
                return Finding("port", True, f"a gateway answers at {where}")
            return Finding("port", False, f"{where}: {error.strerror}; stop what uses it, or set server.port")
    return Finding("port", True, f"{where} is free")


def _server_answers(config: Config) -> bool:
    server = config.server
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104  (compared, not bound)
    scheme = "https" if server.tls_certificate else "http"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}/health/live"
    try:
        # Nothing secret is sent, so whose certificate it is does not matter.
        with httpx.Client(verify=False, timeout=ANSWER_SECONDS, trust_env=False) as client:  # noqa: S501
            return client.get(url).is_success
    except httpx.HTTPError:
        return False
