from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> Any:
    """The tiny model in this process, as the gateway loads it on a CPU."""
    import mlx.core as mx

    from gateway.engine.model_loader import load_model

    return load_model(tiny_folder, mx.float32, lambda fraction: None)
