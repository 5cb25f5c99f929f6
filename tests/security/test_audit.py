"""The audit log survives crashes and is never shortened."""

from pathlib import Path

from gateway.security.audit import AuditLine, AuditLog


def line(target: str) -> AuditLine:
    return AuditLine(1.0, "key-1", "ops", "127.0.0.1", "POST", target, 200)


def test_lines_are_appended_and_told_newest_first(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    for target in ("/a", "/b", "/c"):
        log.append(line(target))
    assert log.latest(2) == [line("/c"), line("/b")]
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 3


def test_a_line_that_a_crash_cut_does_not_spoil_the_next(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.append(line("/a"))
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write('{"time": 2.0, "key')
    log.append(line("/b"))
    assert log.latest(10) == [line("/b"), line("/a")]


def test_full_files_are_kept(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, rotated_bytes=1)
    for target in ("/a", "/b", "/c"):
        log.append(line(target))
    assert sum(len(file.read_text().splitlines()) for file in tmp_path.glob("audit*.jsonl")) == 3
    assert len(list(tmp_path.glob("audit-*.jsonl"))) == 2
