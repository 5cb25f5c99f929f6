"""When each model was used, remembered over restarts. Belongs to the event loop.

One small file in the store, replaced whole: a process that is killed leaves the old one or the new one. It holds ids
and times, nothing of requests.
"""

import logging
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

FILE_NAME = "usage.json"
GAP_SECONDS = 600.0
"""A model that was not used for so long begins a new session when it is used again."""

MOST_SESSIONS = 2000
"""The latest ones are kept: some weeks of a few models, in about 100 kB."""

Time = Annotated[float, Meta(ge=0)]

log = logging.getLogger(__name__)


class Session(Struct, frozen=True):
    """A model was used from `started` to `ended` (Unix seconds), with no longer gap than `GAP_SECONDS`."""

    model_id: str
    started: Time
    ended: Time


class UsageHistory:
    """A file that cannot be read counts as none; one that cannot be written is told in the log, once."""

    def __init__(self, store: Path) -> None:
        self._file = store / FILE_NAME
        for leftover in store.glob(f".{FILE_NAME}.*"):
            leftover.unlink(missing_ok=True)
        self._sessions = _read(self._file)[-MOST_SESSIONS:]
        self._latest = {session.model_id: index for index, session in enumerate(self._sessions)}
        self._told = False

    @property
    def sessions(self) -> list[Session]:
        """In the order in which they began; for `preload.likely_next`."""
        return list(self._sessions)

    def note_use(self, model_id: str, when: float) -> None:
        """A request came for the model. May be called for each: only the first one of a session writes to disk.

        A clock that was set back makes a session neither shorter nor longer.
        """
        index = self._latest.get(model_id)
        latest = self._sessions[index] if index is not None else None
        if index is not None and latest and when - latest.ended <= GAP_SECONDS:
            self._sessions[index] = msgspec.structs.replace(latest, ended=max(latest.ended, when))
            return
        self._sessions.append(Session(model_id, when, when))
        del self._sessions[:-MOST_SESSIONS]
        self._latest = {session.model_id: index for index, session in enumerate(self._sessions)}
        self.save()

    def save(self) -> None:
        """Also when the server ends: how long the last sessions were is known then only."""
        temporary = self._file.with_name(f".{FILE_NAME}.{os.getpid()}")
        try:
            temporary.write_bytes(msgspec.json.encode(self._sessions))
            temporary.replace(self._file)
        except OSError as error:
            if not self._told:
                log.warning("when models are used cannot be remembered: %s", error)
            self._told = True


def _read(file: Path) -> list[Session]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Session])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        log.warning("when models were used is not known: %s", error)
        return []
