"""API keys, in a file of the store that several processes may change and a running server follows.

A key is 256 random bits, and the file holds only its SHA-256: nobody can try out so many keys, so a fast hash is as
good as a slow one. Looking that hash up in a dict leaks no more by its time than bits of a hash that nobody can choose.
"""

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.errors import ApiKeyNotKnown, ConfigError, InvalidRequest
from gateway.security.caller import Caller, Scope

KEY_PREFIX = "mlxgw-"
KEY_BYTES = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,63}")
LAST_USED_EVERY_SECONDS = 60.0

Limit = Annotated[int, Meta(ge=0)]


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a key is made with. Limits of 0 are none; `expires_at` is in seconds since 1970."""

    name: str
    scopes: tuple[Scope, ...] = (Scope.INFERENCE,)
    models: tuple[str, ...] = ()
    requests_per_minute: Limit = 0
    tokens_per_minute: Limit = 0
    tokens_per_day: Limit = 0
    priority: Literal["", "interactive", "normal", "background"] = ""
    expires_at: float | None = None

    def check(self, taken: Sequence[str]) -> None:
        """Raises `InvalidRequest`."""
        if not NAME.fullmatch(self.name):
            raise InvalidRequest("name must be 1 to 64 letters, digits, spaces or any of . _ @ -", "name")
        if self.name in taken:
            raise InvalidRequest(f"There is a key named {self.name!r} already; revoke it or choose another.", "name")
        if not self.scopes:
            raise InvalidRequest("scopes must name at least one of: inference, admin, metrics.", "scopes")
        if self.expires_at is not None and self.expires_at <= time.time():
            raise InvalidRequest("expires_at is in the past.", "expires_at")


class KeyRecord(msgspec.Struct, frozen=True):
    """A key as it is kept; times are in seconds since 1970."""

    id: str
    sha256: str
    created_at: float
    settings: KeySettings

    @property
    def caller(self) -> Caller:
        of = self.settings
        return Caller(self.id, of.name, of.scopes, of.models, of.priority)

    def expired(self, now: float) -> bool:
        return self.settings.expires_at is not None and self.settings.expires_at <= now


class KeyFile(msgspec.Struct, frozen=True):
    version: Literal[1]
    keys: tuple[KeyRecord, ...] = ()


class ApiKeys:
    """The keys of one store. Belongs to one thread; other processes may change the file at any time."""

    def __init__(self, directory: Path) -> None:
        """Raises `ConfigError` if there is a file that cannot be used."""
        self._file = directory / "keys.json"
        self._lock_file = directory / "keys.lock"
        self._used_file = directory / "keys-used.json"
        self._seen: tuple[int, int, int] | None = None
        self._by_hash: dict[str, KeyRecord] = {}
        self._used = self._read_used()
        self._used_written_at = time.monotonic()
        self._read()

    @property
    def records(self) -> list[KeyRecord]:
        return list(self._by_hash.values())

    def follow(self) -> str:
        """Takes over what others changed in the file. Returns what is wrong with it now, if anything: the keys known
        before hold on, so that losing the file opens nothing."""
        try:
            self._read()
        except ConfigError as error:
            return str(error)
        return ""

    def find(self, key: str) -> KeyRecord | None:
        """The record of a key that was not revoked; it may have expired."""
        return self._by_hash.get(_digest(key))

    def last_used_at(self, key_id: str) -> float | None:
        return self._used.get(key_id)

    def note_use(self, key_id: str) -> bool:
        """Whether the times of last use are due to be written."""
        self._used[key_id] = time.time()
        return time.monotonic() - self._used_written_at >= LAST_USED_EVERY_SECONDS

    def write_last_used(self) -> None:
        """Losing a minute of these is no harm, so nothing waits for the disk. Raises `OSError`."""
        self._used_written_at = time.monotonic()
        _replace(self._used_file, msgspec.json.encode(self._used), durable=False)

    def create(self, settings: KeySettings) -> tuple[KeyRecord, str]:
        """The record, and the key itself, which nobody can tell again. Raises `InvalidRequest`, `ConfigError`."""
        with self._changing():
            settings.check([record.settings.name for record in self.records])
            key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
            record = KeyRecord(f"key-{secrets.token_hex(6)}", _digest(key), time.time(), settings)
            self._write([*self.records, record])
            return record, key

    def revoke(self, id_or_name: str) -> KeyRecord:
        """Raises `ApiKeyNotKnown`, `ConfigError`."""
        with self._changing():
            found = [record for record in self.records if id_or_name in (record.id, record.settings.name)]
            if not found:
                raise ApiKeyNotKnown(id_or_name)
            self._write([record for record in self.records if record != found[0]])
            return found[0]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time, each on top of what the others did."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(self._lock_file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._read()
                yield
        except OSError as error:
            raise ConfigError(f"Cannot write {self._file}: {error.strerror}; no key was changed.") from error

    def _read(self) -> None:
        try:
            status = self._file.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return
            kept = msgspec.json.decode(self._file.read_bytes(), type=KeyFile)
        except FileNotFoundError:
            if self._seen:
                raise ConfigError(f"{self._file} has vanished; the keys known before hold on.") from None
            return
        except OSError as error:
            raise ConfigError(f"Cannot read {self._file}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._file} is not a file of API keys ({error}); restore or remove it.") from error
        self._by_hash = {record.sha256: record for record in kept.keys}
        self._seen = seen

    def _write(self, records: Sequence[KeyRecord]) -> None:
        _replace(self._file, msgspec.json.format(msgspec.json.encode(KeyFile(1, tuple(records))), indent=2))
        self._read()

    def _read_used(self) -> dict[str, float]:
        try:
            return msgspec.json.decode(self._used_file.read_bytes(), type=dict[str, float])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):  # a convenience, not a promise
            return {}


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def _replace(file: Path, content: bytes, *, durable: bool = True) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with open(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as written:
        written.write(content)
        written.flush()
        if durable:
            os.fsync(written.fileno())
    temporary.replace(file)
    if durable:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
