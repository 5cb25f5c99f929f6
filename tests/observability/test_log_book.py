import asyncio
import json
import logging
import shutil
import time
from pathlib import Path

import pytest

from gateway.observability.log_book import LINES_IN_MEMORY, LogBook
from gateway.observability.log_files import LogFiles
from gateway.observability.log_filter import LogFilter
from gateway.observability.log_line import SUCCESS, TextFormatter
from gateway.observability.request_record import CURRENT, RequestRecord

LINES = 100_000
WITHIN_SECONDS = 2.0
"""Ten times what is promised, for a machine that does other things as well; loadtests measure the figure."""


def logged(book: LogBook, message: str, level: int = logging.INFO, when: float = 0.0, **fields: object) -> None:
    record = logging.makeLogRecord({"name": "test", "levelno": level, "msg": message, **fields})
    record.created = when or record.created
    book.emit(record)


def messages(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["message"] for line in lines]


def test_lines_are_found_by_level_text_and_field() -> None:
    book = LogBook()
    logged(book, 'says "model":"b"', request="req-1", model="a")
    logged(book, "Ready", SUCCESS, model="b")
    logged(book, "broken", logging.ERROR)
    assert messages(book.search(LogFilter(level="success"), 9)) == ["Ready", "broken"]
    assert messages(book.search(LogFilter(search="READY"), 9)) == ["Ready"]
    assert messages(book.search(LogFilter(search='"MODEL":"b"'), 9)) == ['says "model":"b"']
    assert messages(book.search(LogFilter(model="b"), 9)) == ["Ready"]
    assert messages(book.search(LogFilter(request="req-1"), 9)) == ['says "model":"b"']
    assert messages(book.search(LogFilter(), 1)) == ["broken"]


def test_a_line_within_a_request_names_it() -> None:
    book = LogBook()
    record = RequestRecord("req-7", model="m", session="s")
    token = CURRENT.set(record)
    logged(book, "one")
    record.end("GET", "/", 200, "", "")
    logged(book, "two")
    CURRENT.reset(token)
    one, two = (json.loads(line) for line in book.search(LogFilter(), 9))
    assert (one["request"], one["model"], one["session"]) == ("req-7", "m", "s")
    assert "request" not in two


def test_older_lines_are_read_from_rotated_files_and_the_rest_is_gone(tmp_path: Path) -> None:
    book = LogBook(LogFiles(tmp_path, 1 << 20, 3))
    for number in range(3 * LINES_IN_MEMORY):
        logged(book, f"{number:060}")
    book.close()
    found = [int(message) for message in messages(book.search(LogFilter(), LINES))]
    assert found == list(range(found[0], 3 * LINES_IN_MEMORY))
    assert len(found) > LINES_IN_MEMORY
    assert len(list(tmp_path.glob("server.jsonl*"))) <= 3
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.iterdir())


def test_a_server_beside_it_has_files_of_its_own(tmp_path: Path) -> None:
    books = [LogBook(LogFiles(tmp_path, 1 << 20, 2)) for _ in range(2)]
    for number, book in enumerate(books):
        logged(book, str(number))
        book.close()
    assert (tmp_path / "server.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "server-2.jsonl").read_text().count("\n") == 1


def test_files_that_cannot_be_written_cost_nothing_but_lines(tmp_path: Path) -> None:
    """As on a full disk: every write raises `OSError`."""
    files = LogFiles(tmp_path / "logs", 1 << 20, 2)
    shutil.rmtree(tmp_path / "logs")
    book = LogBook(files)
    logged(book, "lost on disk")
    assert messages(book.search(LogFilter(), 9)) == ["lost on disk"]
    book.close()


async def test_following_tells_the_past_and_what_comes_and_ends_with_the_server() -> None:
    book = LogBook()
    logged(book, "before", logging.ERROR)
    lines = book.follow(LogFilter(level="warning"), 5)
    assert json.loads(await anext(lines))["message"] == "before"
    coming = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    await asyncio.to_thread(logged, book, "not wanted")
    await asyncio.to_thread(logged, book, "wanted", logging.WARNING)
    assert json.loads(await coming)["message"] == "wanted"
    book.end_following()
    with pytest.raises(StopAsyncIteration):
        await anext(lines)


def test_a_hundred_thousand_lines_are_searched_at_once(tmp_path: Path) -> None:
    book = LogBook(LogFiles(tmp_path, 1 << 30, 2))
    began = time.time() - LINES
    for number in range(LINES):
        logged(book, f"{number} of many prompt tokens reused", when=began + number, request=f"req-{number}", model="m")
    book.close()
    started = time.perf_counter()
    found = book.search(LogFilter(search="99 of many", level="info"), LINES)
    seconds = time.perf_counter() - started
    assert len(found) == LINES // 100
    assert seconds < WITHIN_SECONDS


def test_a_terminal_gets_no_control_characters() -> None:
    record = logging.makeLogRecord({"msg": "a \x1b[2Jmodel", "levelno": SUCCESS})
    assert TextFormatter().format(record).endswith("success a \\x1b[2Jmodel")
