"""The demo model, imported once for all tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.model_store.sources import demo_gguf
from gateway.model_store.store import ModelStore, StoredModel

from .hub_files import FILES
from .hub_server import HubServer


@pytest.fixture(scope="session")
def demo_file() -> Path:
    return demo_gguf()


@pytest.fixture(scope="session")
def demo_model(demo_store: Path) -> StoredModel:
    return ModelStore(demo_store).locate("", lambda _fraction, _doing: None)


@pytest.fixture
def silent() -> Callable[[float, str], None]:
    """A report that nobody reads."""
    return lambda _fraction, _doing: None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a test may make a store."""
    return tmp_path / "store"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A hub with `org/model`, and with `org/pickles`, which holds no weights that may be loaded."""
    with HubServer({"org/model": dict(FILES), "org/pickles": {"config.json": b"{}", "model.bin": b"x"}}) as server:
        yield server
        server.shutdown()
