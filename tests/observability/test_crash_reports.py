import logging
import os
import signal
import threading
from pathlib import Path

import httpx
import msgspec
import pytest

from gateway.config import Config, ModelConfig, UpstreamConfig
from gateway.observability.crash_reports import CrashReports
from gateway.observability.log_book import LogBook
from tests.conftest import StartServer

UPSTREAM = UpstreamConfig(["http://10.0.0.1/v1"], key="sk-secret", headers={"x-secret": "sk-secret"})
CONFIG = Config(models=[ModelConfig(id="big", upstreams=[UPSTREAM])])


def test_a_report_has_the_error_the_last_lines_and_no_secret(tmp_path: Path) -> None:
    book = LogBook()
    for number in range(300):
        book.emit(logging.makeLogRecord({"msg": f"line {number}", "levelno": logging.INFO}))
    reports = CrashReports(tmp_path, book, CONFIG)
    try:
        raise ValueError("a part is missing")
    except ValueError as error:
        reports.write(error)
    (summary,) = reports.list_all()
    assert summary.error == "ValueError: a part is missing"
    report = reports.read(summary.name)
    assert report
    assert "raise ValueError" in report.traceback
    assert len(report.events) == 200
    assert b"line 299" in bytes(report.events[-1])
    (file,) = (tmp_path / "crashes").iterdir()
    assert b"10.0.0.1" in file.read_bytes()
    assert b"sk-secret" not in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0


def test_only_reports_are_read(tmp_path: Path) -> None:
    reports = CrashReports(tmp_path, LogBook(), Config())
    (tmp_path / "crash-x.json").write_bytes(msgspec.json.encode({}))
    assert reports.read("../crash-x.json") is None
    assert reports.list_all() == []


def test_a_thread_that_ends_with_an_error_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    reports = CrashReports(tmp_path, LogBook(), Config())
    (tmp_path / "crashes").write_text("in the way: nothing is written, and nothing breaks")
    reports.watch()
    (tmp_path / "crashes").unlink()
    thread = threading.Thread(target=lambda: [][0])
    thread.start()
    thread.join()
    assert reports.list_all()[0].error.startswith("IndexError")


def test_a_crash_of_the_interpreter_is_reported_at_the_next_start(
    start_server: StartServer, tiny_folder: Path, tmp_path: Path
) -> None:
    first = start_server("--model", str(tiny_folder), STORE_DIRECTORY=str(tmp_path))
    # A line is on standard error before the thread that writes files, which dies with the process, has had its turn.
    while not any("tiny is ready after" in file.read_text() for file in (tmp_path / "logs").glob("*.jsonl")):
        assert first.process.poll() is None
    os.kill(first.process.pid, signal.SIGSEGV)
    first.process.wait()
    second = start_server("--model", str(tiny_folder), STORE_DIRECTORY=str(tmp_path), may_log_traceback=True)
    (crash,) = httpx.get(f"{second.url}/admin/crashes").json()["data"]
    assert crash["error"] == "Fatal Python error: Segmentation fault"
    report = httpx.get(f"{second.url}/admin/crashes/{crash['name']}").json()
    assert any("tiny is ready after" in event["message"] for event in report["events"])
    assert httpx.get(f"{second.url}/admin/crashes/crash-0.json").status_code == 404
