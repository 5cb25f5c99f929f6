"""`mlx-gateway serve` in a process whose mlx-lm knows one architecture more: the scripted one of these tests."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from gateway.cli import main

ARCHITECTURE = "mlx_lm.models.scripted"


class ScriptedArchitecture(MetaPathFinder):
    """Found when a model asks for it: nothing may import mlx before the gateway has chosen its BLAS."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != ARCHITECTURE:
            return None
        return spec_from_file_location(fullname, Path(__file__).with_name("scripted_model.py"))


if __name__ == "__main__":
    sys.meta_path.append(ScriptedArchitecture())
    sys.exit(main())
