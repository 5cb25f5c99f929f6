"""What is remembered of models over restarts: which were in memory, how they were used, what they took.

One small file in the store, replaced whole: a process that dies leaves the old one or the new one.
"""

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from gateway.config import ModelConfig
from gateway.model_pool.model_progress import ModelState
from gateway.model_pool.resident_model import ResidentModel

FILE_NAME = "residency.json"

log = logging.getLogger(__name__)


class Remembered(Struct, frozen=True):
    """`last_used` is in Unix seconds; `weight_bytes` and `load_seconds` are of the last load. `options` are those that
    an operator has changed."""

    model_id: str
    resident: bool
    last_used: float = 0.0
    weight_bytes: int = 0
    load_seconds: float = 0.0
    options: dict[str, Any] = {}

    def options_over(self, offered: ModelConfig) -> ModelConfig:
        """The configured options with those that were changed; the configured ones where they no longer fit."""
        try:
            return msgspec.convert(msgspec.to_builtins(offered) | self.options, ModelConfig)
        except msgspec.ValidationError as error:
            log.warning("what was set for %s is forgotten: %s", self.model_id, error)
            return offered


class ResidencyRecord:
    """A file that cannot be read counts as none; one that cannot be written is told in the log, once."""

    def __init__(self, store: Path) -> None:
        self._file = store / FILE_NAME
        self._entries = {entry.model_id: entry for entry in _read(self._file)}
        self._told = False

    def of(self, model_id: str) -> Remembered | None:
        return self._entries.get(model_id)

    def most_wanted_first(self) -> list[Remembered]:
        return sorted(self._entries.values(), key=lambda entry: entry.last_used, reverse=True)

    def note(self, models: Iterable[tuple[ResidentModel, bool]]) -> None:
        """What they are now, and whether each is wished for; those that are not among them stay as they are."""
        before = dict(self._entries)
        for model, wished in models:
            if entry := _entry(model, wished, before.get(model.model_id)):
                self._entries[model.model_id] = entry
        if self._entries != before:
            self._write()

    def _write(self) -> None:
        temporary = self._file.with_name(f".{FILE_NAME}.{os.getpid()}")
        try:
            temporary.write_bytes(msgspec.json.encode(list(self._entries.values())))
            temporary.replace(self._file)
        except OSError as error:
            if not self._told:
                log.warning("which models are in memory cannot be remembered: %s", error)
            self._told = True


def _entry(model: ResidentModel, wished: bool, before: Remembered | None) -> Remembered | None:
    """One that is on its way into memory counts as if it were there; one that has failed as it did before."""
    wanted = wished or model.wants_back or model.state in (ModelState.READY, ModelState.LOADING)
    if not wanted and model.state is not ModelState.ON_DISK and before is None:
        return None
    failed = model.state is ModelState.FAILED and before is not None and before.resident
    resident = wanted or failed
    used = time.time() - (time.monotonic() - model.last_used) if model.last_used else 0.0
    return Remembered(
        model.model_id,
        resident,
        max(round(used), before.last_used if before else 0.0),
        model.loaded_bytes,
        round(model.load_seconds, 3),
        model.changed_options,
    )


def _read(file: Path) -> list[Remembered]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Remembered])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s is of no use and is not taken into account: %s", file, error)
        return []
