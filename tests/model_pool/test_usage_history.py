"""The history on a real disk."""

import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model_pool.usage_history import FILE_NAME, GAP_SECONDS, MOST_SESSIONS, Session, UsageHistory

CHECKOUT = Path(__file__).parents[2]


def test_uses_in_a_row_are_one_session(tmp_path: Path) -> None:
    history = UsageHistory(tmp_path)
    for when in (1000.0, 1000.0 + GAP_SECONDS, 1100.0, 1000.0 + 2 * GAP_SECONDS):
        history.note_use("a", when)
    history.note_use("b", 1001.0)
    history.note_use("a", 1000.1 + 3 * GAP_SECONDS)
    assert history.sessions == [
        Session("a", 1000.0, 1000.0 + 2 * GAP_SECONDS),
        Session("b", 1001.0, 1001.0),
        Session("a", 1000.1 + 3 * GAP_SECONDS, 1000.1 + 3 * GAP_SECONDS),
    ]


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    history = UsageHistory(tmp_path)
    history.note_use("a", 1000.0)
    history.note_use("b", 1001.0)
    assert UsageHistory(tmp_path).sessions == [Session("a", 1000.0, 1000.0), Session("b", 1001.0, 1001.0)]
    history.note_use("a", 1500.0)
    history.save()
    again = UsageHistory(tmp_path)
    assert again.sessions[0] == Session("a", 1000.0, 1500.0)
    again.note_use("a", 1501.0)
    assert len(again.sessions) == 2


def test_it_does_not_grow_without_end(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"[%s]" % b",".join([b'{"model_id":"a","started":1,"ended":1}'] * 5000))
    history = UsageHistory(tmp_path)
    assert len(history.sessions) == MOST_SESSIONS
    for day in range(20):
        history.note_use("b", 1e6 + day * 86400)
    assert len(history.sessions) == len(UsageHistory(tmp_path).sessions) == MOST_SESSIONS
    assert history.sessions[-1].started == 1e6 + 19 * 86400


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1e5)), max_size=30))
def test_each_use_lies_in_a_session_unless_the_clock_went_back(uses: list[tuple[str, float]]) -> None:
    history = UsageHistory(Path("/nonexistent"))
    latest: dict[str, float] = {}
    for model, when in uses:
        history.note_use(model, when)
        latest[model] = max(latest.get(model, 0.0), when)
    for model, when in latest.items():
        assert max(s.ended for s in history.sessions if s.model_id == model) == when
    assert all(session.started <= session.ended for session in history.sessions)


@pytest.mark.parametrize(
    "content",
    [b"", b"[{", b"{}", b'[{"model_id":"a","started":"x","ended":1}]', b'[{"model_id":"a"}]', b"\xff", b"[" * 9999],
)
def test_a_broken_file_is_none(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    history = UsageHistory(tmp_path)
    assert history.sessions == []
    assert "is not known" in caplog.text
    history.note_use("a", 1.0)
    assert UsageHistory(tmp_path).sessions == [Session("a", 1.0, 1.0)]


def test_a_disk_that_takes_nothing_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = UsageHistory(tmp_path / "gone")
    with caplog.at_level(logging.WARNING):
        history.note_use("a", 1.0)
        history.note_use("b", 1.0)
    assert caplog.text.count("cannot be remembered") == 1
    assert len(history.sessions) == 2


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from gateway.model_pool.usage_history import UsageHistory

history, when = UsageHistory(Path(sys.argv[1])), 0.0
while True:
    when += 1000
    history.note_use("model", when)
    print(when, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 40])
def test_a_kill_leaves_a_whole_file(lines: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for _ in range(lines):
        written = float(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate()

    sessions = UsageHistory(tmp_path).sessions
    assert sessions[-1].started >= written
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
