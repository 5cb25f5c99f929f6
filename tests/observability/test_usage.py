import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.cli import main
from gateway.observability.request_record import EndedRequest, RequestRecord
from gateway.observability.usage_database import UsageDatabase
from gateway.observability.usage_query import UsageQuery, usage_rows
from tests.conftest import StartServer

ADDER = """
import sys, time
from pathlib import Path
from gateway.observability.request_record import RequestRecord
from gateway.observability.usage_database import UsageDatabase
database = UsageDatabase(Path(sys.argv[1]), 0)
database.start()
for number in range(10**9):
    record = RequestRecord(str(number), model="m", complete=True)
    database.add(record.end("POST", "/", 200, "", ""))
    print(number, time.time(), flush=True)
    time.sleep(0.01)
"""


def ended(**fields: Any) -> EndedRequest:
    record = RequestRecord("req-1", complete=True, served=True)
    return msgspec.structs.replace(record.end("POST", "/v1/messages", 200, "", ""), **fields)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[UsageDatabase]:
    database = UsageDatabase(tmp_path, 30)
    database.start()
    yield database
    database.stop()


def test_sums_by_model_and_key(database: UsageDatabase) -> None:
    database.add(ended(model="a", key_id="k1", key="Ann", prompt_tokens=5, generated_tokens=2, seconds=1.0))
    database.add(ended(model="a", key_id="k1", key="Ann", prompt_tokens=7, cached_tokens=4, seconds=3.0))
    database.add(ended(model="b", outcome="cancelled"))
    database.flush()
    query = UsageQuery(group_by=("model", "key"))
    first, second = (dict(zip(query.columns, row, strict=True)) for row in usage_rows(database.file, query))
    assert (first["model"], first["key"], first["requests"]) == ("a", "Ann", 2)
    assert (first["prompt_tokens"], first["cached_tokens"], first["generated_tokens"]) == (12, 4, 2)
    assert (first["mean_seconds"], first["mean_queue_seconds"]) == (2.0, None)
    assert (second["model"], second["unfinished"]) == ("b", 1)
    for key in ("k1", "Ann"):
        assert usage_rows(database.file, UsageQuery(key=key))[0][0] == 2
    assert usage_rows(database.file, UsageQuery(model="' OR 1 --"))[0][0] == 0


def test_old_requests_are_forgotten(tmp_path: Path) -> None:
    first = UsageDatabase(tmp_path, 0)
    first.start()
    first.add(ended(started_at=time.time() - 31 * 86400))
    first.add(ended())
    first.stop()
    assert usage_rows(first.file, UsageQuery())[0][0] == 2
    second = UsageDatabase(tmp_path, 30)
    second.start()
    second.stop()
    assert usage_rows(second.file, UsageQuery())[0][0] == 1


def test_what_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    """As on a full disk: what is written raises `OSError`, until it does not."""
    database = UsageDatabase(tmp_path, 0)
    database.file.mkdir()
    database.start()
    database.add(ended())
    database.flush()
    database.file.rmdir()
    database.flush()
    assert usage_rows(database.file, UsageQuery())[0][0] == 1
    database.stop()


def test_a_file_that_is_no_database_is_put_aside(tmp_path: Path) -> None:
    database = UsageDatabase(tmp_path, 0)
    database.file.write_bytes(b"no database" * 1000)
    database.start()
    database.add(ended())
    database.flush()
    database.stop()
    assert usage_rows(database.file, UsageQuery())[0][0] == 1
    assert (tmp_path / "usage.sqlite3.broken").exists()


def test_a_kill_loses_at_most_the_last_second(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ADDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    lines = [process.stdout.readline().split() for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = float(lines[-1][1])
    safe = sum(float(when) < last - 1.0 for _, when in lines)
    assert safe > 0
    rows: list[Any] = usage_rows(tmp_path / "usage.sqlite3", UsageQuery())
    assert rows[0][0] >= safe
    assert os.stat(tmp_path / "usage.sqlite3").st_mode & 0o077 == 0


def test_a_server_notes_what_is_asked(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server("--model", str(tiny_folder), STORE_DIRECTORY=str(tmp_path))
    with httpx.Client(base_url=server.url, headers={"user-agent": "opencode/1"}, timeout=60) as client:
        message = {"role": "user", "content": "Hi"}
        body = {"model": "tiny", "max_tokens": 3, "messages": [message]}
        tokens = client.post("/v1/chat/completions", json=body).json()["usage"]["prompt_tokens"]
        client.post("/v1/messages", json=body | {"stream": True})
        client.post("/v1/responses", json={"model": "tiny", "max_output_tokens": 3, "input": "Hi"})
        client.post("/api/chat", json={"model": "tiny", "options": {"num_predict": 3}, "messages": [message]})
        client.post("/v1/completions", json={"model": "tiny", "max_tokens": 3, "prompt": ["Hi", "Ho"]})
        client.post("/v1/chat/completions", json=body | {"model": "tiny", "n": 1000})
        told = client.get("/admin/usage?group_by=endpoint,client").json()["data"]
        by_endpoint = {row["endpoint"]: row for row in told}
        assert set(by_endpoint) == {
            "/v1/chat/completions",
            "/v1/messages",
            "/v1/responses",
            "/api/chat",
            "/v1/completions",
        }
        assert {row["client"] for row in told} == {"opencode"}
        assert by_endpoint["/v1/messages"]["generated_tokens"] == 3
        assert by_endpoint["/v1/completions"]["generated_tokens"] == 6
        assert by_endpoint["/v1/chat/completions"]["prompt_tokens"] == tokens
        text = client.get("/admin/usage?group_by=model,day&format=csv&since=1h").text
        assert next(csv.DictReader(io.StringIO(text)))["model"] == "tiny"
        assert client.get("/admin/usage?group_by=prompt").status_code == 400
    os.environ["MLX_GATEWAY_STORE_DIRECTORY"] = str(tmp_path)
    try:
        assert main(["usage", "--by", "client", "--since", "1h"]) == 0
        assert "opencode" in capsys.readouterr().out
        assert main(["logs", "--url", server.url, "--level", "success"]) == 0
        assert "tiny is ready after" in capsys.readouterr().out
    finally:
        del os.environ["MLX_GATEWAY_STORE_DIRECTORY"]
