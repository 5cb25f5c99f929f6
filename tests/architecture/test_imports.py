"""Who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "gateway"
ROWS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"server"},
    {"app"},
    {"api"},
    {"serving", "protocols"},
    {"model_pool", "chat"},
    {"engine", "model_store"},
    {"prefix_cache", "hardware"},
    {"observability", "security"},
    {"generation", "config"},
    {"errors"},
)
"""Each unit imports only units of the rows below its own."""

MLX_UNITS = {"engine", "prefix_cache", "hardware", "model_store"}
MLX_FREE_AT_START = ("mlx", "mlx_lm", "transformers", "huggingface_hub")
FILES = sorted(PACKAGE.rglob("*.py"))


def unit_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def row_of(unit: str) -> int:
    return next(index for index, row in enumerate(ROWS) if unit in row)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    unit = unit_of(file)
    if unit == "__init__":
        return
    for module in imports_of(file):
        if module.startswith("gateway."):
            imported = module.split(".")[1]
            assert imported == unit or row_of(imported) > row_of(unit), f"{unit} must not import {module}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_mlx_stays_below_the_engine_border(file: Path) -> None:
    if unit_of(file) not in MLX_UNITS:
        assert not [module for module in imports_of(file) if module.split(".")[0] in ("mlx", "mlx_lm")]


def test_the_check_would_find_a_wrong_import(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("import mlx.core as mx\nfrom gateway.api import routes\n")
    assert list(imports_of(file)) == ["mlx.core", "gateway.api"]
    assert row_of("api") < row_of("engine")


def test_only_three_files_know_mlx_lms_caches() -> None:
    """Their classes change between minor versions."""
    users = {file.name for file in FILES if any(m.startswith("mlx_lm.models") for m in imports_of(file))}
    assert users == {"aligned_caches.py", "cache_factory.py", "kv_layout.py"}
