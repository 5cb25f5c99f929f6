"""The demo model, imported once for all tests of this folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.model_store.sources import demo_gguf
from gateway.model_store.store import ModelStore, StoredModel


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
