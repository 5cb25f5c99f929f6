"""`mlx-gateway import` and `mlx-gateway list`, as a person runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY


def run(store: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "MLX_GATEWAY_STORE_DIRECTORY": str(store)}
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_model_is_imported_and_listed(tiny_folder: Path, root: Path) -> None:
    imported = run(root, "import", str(tiny_folder), "--id", "my model")
    assert imported.returncode == 0, imported.stderr
    assert "my model is in " in imported.stdout
    assert "tried: headers, tokenizer, shapes, forward pass" in imported.stdout
    assert "100 % imported" in imported.stderr

    heading, row = run(root, "list").stdout.splitlines()
    assert heading.split() == ["ID", "SIZE", "LICENCE", "MADE", "SOURCE"]
    assert row.startswith("my model  ")
    assert row.endswith(f"import {tiny_folder}")
    listed = json.loads(run(root, "list", "--json").stdout)
    assert (listed["name"], listed["source"]["kind"]) == ("my model", "import")


def test_a_refusal_is_one_line(tmp_path: Path, root: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    refused = run(root, "import", str(tmp_path / "weights.bin"))
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"mlx-gateway: {tmp_path}/weights.bin: there is no config.json")
    assert "Traceback" not in refused.stderr
    assert run(root, "list").stdout.splitlines()[1:] == []
