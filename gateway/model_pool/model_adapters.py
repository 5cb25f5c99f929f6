"""The LoRA adapters of one model: where they come from, and which of them serve. Belongs to the event loop."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

from gateway.errors import AdapterUnfit, ConfigError, GatewayError
from gateway.generation.adapter import Adapter, adapter_id
from gateway.model_pool.background import in_background
from gateway.model_store.adapters import read_adapter_entry
from gateway.model_store.store import ModelStore

log = logging.getLogger(__name__)


class ModelAdapters:
    """One that cannot serve fails its own requests; its base and the others serve."""

    def __init__(self, base_id: str, entries: Sequence[str]) -> None:
        """`entries` as `read_adapter_entry` takes them. Raises `ConfigError` for one that names no adapter, and for two
        of one name."""
        self.found: tuple[Adapter, ...] = ()
        self._base_id = base_id
        self._sources: dict[str, str] = {}
        self._failures: dict[str, GatewayError] = {}
        for name, source in map(read_adapter_entry, entries):
            if name in self._sources:
                raise ConfigError(f"Two adapters of {base_id!r} are called {name!r}. Give one of them another name.")
            self._sources[name] = source

    @property
    def names(self) -> list[str]:
        """Of those that serve, or will as soon as the model is loaded."""
        return [name for name in self._sources if name not in self._failures]

    def check(self, name: str) -> None:
        """Raises why this adapter does not serve, if it does not."""
        if failure := self._failures.get(name):
            raise failure.with_traceback(None)  # shared by many requests: keep none of their frames

    async def locate(self, store: ModelStore) -> None:
        """Has the store import what it does not have yet."""
        found: list[Adapter] = []
        for name, source in self._sources.items():
            locating = partial(store.locate_adapter, self._base_id, name, source, _told_to_nobody)
            try:
                found.append(await in_background(locating, "adapter-store"))
            except GatewayError as error:
                self._fail(name, error)
        self.found = tuple(found)

    def refuse_all(self, reason: str) -> None:
        for name in self._sources:
            self._fail(name, AdapterUnfit(name, reason))

    def refused(self, refused: Mapping[str, AdapterUnfit]) -> None:
        """The model was loaded, and these do not suit it."""
        for name, failure in refused.items():
            self._fail(name, failure)

    def _fail(self, name: str, failure: GatewayError) -> None:
        self._failures[name] = failure
        log.error("%s cannot be served: %s", adapter_id(self._base_id, name), failure)


def _told_to_nobody(fraction: float, doing: str) -> None:
    """An adapter is copied in a moment; the store logs it."""
