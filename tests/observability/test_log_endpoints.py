import csv
import io
import json

import httpx
import pytest

from gateway.observability.csv_text import csv_text
from tests.conftest import Server


def get(server: Server, path: str) -> httpx.Response:
    return httpx.get(server.url + path, timeout=60)


def test_the_log_is_searched_and_exported(tiny_server: Server) -> None:
    request = get(tiny_server, "/v1/models").headers["x-request-id"]
    tiny_server.wait_for_log(request)
    (line,) = get(tiny_server, f"/admin/logs?request={request}").json()["data"]
    assert (line["level"], line["message"]) == ("info", "GET /v1/models 200 finished")
    ready = get(tiny_server, "/admin/logs?level=success&search=is+ready").json()["data"]
    assert ready[0]["level"] == "success"
    rows = list(csv.DictReader(io.StringIO(get(tiny_server, f"/admin/logs?request={request}&format=csv").text)))
    assert (rows[0]["request"], json.loads(rows[0]["fields"])["seconds"]) == (request, line["seconds"])
    exported = get(tiny_server, "/admin/logs?format=jsonl&limit=2").text.splitlines()
    assert [set(json.loads(text)) >= {"time", "level"} for text in exported] == [True, True]


def test_the_log_is_followed(tiny_server: Server) -> None:
    with httpx.stream("GET", f"{tiny_server.url}/admin/logs?follow=true&search=/v1/mod", timeout=60) as stream:
        events = (text for text in stream.iter_lines() if text)
        assert next(events) == ": listening"
        request = get(tiny_server, "/v1/models").headers["x-request-id"]
        assert json.loads(next(events).removeprefix("data: "))["request"] == request


@pytest.mark.parametrize("query", ["level=loud", "limit=-1", "since=yesterday", "format=xml"])
def test_a_bad_question_is_refused(tiny_server: Server, query: str) -> None:
    answer = get(tiny_server, f"/admin/logs?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.split("=")[0]


def test_a_spreadsheet_runs_nothing() -> None:
    text = csv_text(["a", "b"], [["=1+1", -1], ["+x", None], ["@x", "x"]])
    assert list(csv.reader(io.StringIO(text)))[1:] == [["'=1+1", "-1"], ["'+x", ""], ["'@x", "x"]]
