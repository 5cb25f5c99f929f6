"""The file of keys, with real files and processes."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.errors import ApiKeyNotKnown, ConfigError, InvalidRequest
from gateway.security.api_keys import ApiKeys, KeySettings
from gateway.security.caller import Scope


def test_a_key_is_kept_as_its_hash_and_found_by_itself(tmp_path: Path) -> None:
    record, key = ApiKeys(tmp_path).create(KeySettings("ide", models=("tiny",), priority="background"))
    assert key.startswith("mlxgw-")
    kept = tmp_path / "keys.json"
    assert key.removeprefix("mlxgw-") not in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    again = ApiKeys(tmp_path)
    assert again.find(key) == record
    assert again.find(key[:-1]) is again.find("") is again.find("\udcff") is None
    assert record.caller.models == ("tiny",)
    assert record.caller.may(Scope.INFERENCE)
    assert not record.caller.may(Scope.ADMIN)


def test_what_another_process_changes_is_noticed(tmp_path: Path) -> None:
    ours, theirs = ApiKeys(tmp_path), ApiKeys(tmp_path)
    record, key = theirs.create(KeySettings("a"))
    assert ours.find(key) is None
    assert ours.follow() == ""
    assert ours.find(key)
    theirs.revoke(record.id)
    ours.follow()
    assert ours.find(key) is None


def test_processes_that_make_keys_at_once_lose_none(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gateway.security.api_keys import *\n"
        "for i in range(5): ApiKeys(Path(sys.argv[1])).create(KeySettings(f'{sys.argv[2]}-{i}'))"
    )
    makers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)]) for n in range(3)]
    assert [maker.wait() for maker in makers] == [0, 0, 0]
    assert len(ApiKeys(tmp_path).records) == 15
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version": 2, "keys": []}'])
def test_a_broken_or_lost_file_opens_nothing(tmp_path: Path, content: bytes) -> None:
    keys = ApiKeys(tmp_path)
    _, key = keys.create(KeySettings("a"))
    file = tmp_path / "keys.json"
    file.write_bytes(content)
    assert "not a file of API keys" in keys.follow()
    assert keys.find(key)
    with pytest.raises(ConfigError, match="restore or remove"):
        ApiKeys(tmp_path)
    file.unlink()
    assert "vanished" in keys.follow()
    assert keys.find(key)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Cannot"):
        ApiKeys(tmp_path / "file").create(KeySettings("a"))


@pytest.mark.parametrize(
    "settings",
    [
        KeySettings(""),
        KeySettings("a\nb"),
        KeySettings("taken"),
        KeySettings("a", scopes=()),
        KeySettings("a", expires_at=1.0),
    ],
)
def test_settings_are_checked(tmp_path: Path, settings: KeySettings) -> None:
    keys = ApiKeys(tmp_path)
    keys.create(KeySettings("taken"))
    with pytest.raises(InvalidRequest):
        keys.create(settings)
    with pytest.raises(ApiKeyNotKnown):
        keys.revoke("nobody")


def test_an_expired_key_says_so(tmp_path: Path) -> None:
    record, _ = ApiKeys(tmp_path).create(KeySettings("a", expires_at=time.time() + 60))
    assert not record.expired(time.time())
    assert record.expired(time.time() + 61)


def test_the_last_use_is_written_and_read(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path)
    record, _ = keys.create(KeySettings("a"))
    assert not keys.note_use(record.id)  # it is not yet due
    before = os.stat(tmp_path / "keys.json").st_mtime_ns
    keys.write_last_used()
    assert ApiKeys(tmp_path).last_used_at(record.id) == keys.last_used_at(record.id)
    assert os.stat(tmp_path / "keys.json").st_mtime_ns == before
