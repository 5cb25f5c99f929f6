"""`mlx-gateway keys`, and commands that send one, over TLS too."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import StartServer, running_server


def command(store: Path, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MLX_GATEWAY_STORE_DIRECTORY": str(store)} | ({"MLX_GATEWAY_KEY": key} if key else {})
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    made = command(tmp_path, "keys", "create", "--name", "ops", "--scope", "admin", "--days", "1")
    assert made.returncode == 0
    assert made.stdout.startswith("mlxgw-")
    listed = command(tmp_path, "keys", "list").stdout
    assert "ops" in listed
    assert "admin; not used yet; expires" in listed
    assert made.stdout.strip() not in listed
    assert "revoked" in command(tmp_path, "keys", "revoke", "ops").stdout
    again = command(tmp_path, "keys", "revoke", "ops")
    assert (again.returncode, again.stderr) == (2, "mlx-gateway: There is no API key with the id or name 'ops'.\n")


def test_a_running_server_notices_and_commands_send_the_key(tmp_path: Path, tiny_folder: Path) -> None:
    with running_server(tmp_path, "--model", str(tiny_folder)) as server:
        asked = ("models", "--url", server.url)
        assert command(tmp_path, *asked).returncode == 0
        key = command(tmp_path, "keys", "create", "--name", "ops", "--scope", "admin").stdout.strip()
        refused = command(tmp_path, *asked)
        assert refused.returncode == 2
        assert "needs an API key" in refused.stderr
        assert "tiny" in command(tmp_path, *asked, key=key).stdout
        (tmp_path / "key").write_text(key)
        assert "tiny" in command(tmp_path, *asked, "--key-file", str(tmp_path / "key")).stdout
        assert key not in server.log


def test_beyond_loopback_only_with_keys(tmp_path: Path) -> None:
    refused = command(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "keys create" in refused.stderr


def test_tls(start_server: StartServer, tmp_path: Path, tiny_folder: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    server = start_server("--model", str(tiny_folder), SERVER_TLS_CERTIFICATE=str(certificate), SERVER_TLS_KEY=str(key))
    assert server.url.startswith("https://")
    shown = command(tmp_path, "models", "--url", server.url, "--certificate", str(certificate))
    assert "tiny" in shown.stdout
    assert "CERTIFICATE_VERIFY_FAILED" in command(tmp_path, "models", "--url", server.url).stderr
    with httpx.Client(verify=False) as client:
        assert client.get(f"{server.url}/health/live").status_code == 200
