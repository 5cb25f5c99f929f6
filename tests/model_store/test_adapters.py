"""Adapters in the store: one import, reused until the folder changes; what cannot be served is refused by name."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from gateway.config import DownloadsConfig
from gateway.errors import ConfigError, ModelFilesInvalid, ModelStoreError
from gateway.model_store.adapter_format import read_updates
from gateway.model_store.adapters import read_adapter_entry
from gateway.model_store.manifest import read_manifest
from gateway.model_store.store import ModelStore

from .hub_server import HubServer

MLX: dict[str, Any] = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 10.0}}
PEFT: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 16}
Q_PROJ = "model.layers.0.self_attn.q_proj"


def zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


def mlx_adapter(folder: Path, config: dict[str, Any] | None = None, **tensors: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(MLX if config is None else config))
    save_file(
        tensors or {f"{Q_PROJ}.lora_a": zeros(8, 2), f"{Q_PROJ}.lora_b": zeros(2, 6)}, folder / "adapters.safetensors"
    )
    return folder


def peft_adapter(folder: Path, config: dict[str, Any] | None = None, **tensors: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(PEFT | (config or {})))
    name = f"base_model.model.{Q_PROJ}"
    tensors = tensors or {f"{name}.lora_A.weight": zeros(2, 8), f"{name}.lora_B.weight": zeros(6, 2)}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def quiet(fraction: float, doing: str) -> None:
    """A report that nobody reads."""


def refusal(folder: Path) -> str:
    with pytest.raises(ModelFilesInvalid) as raised:
        read_updates(folder)
    return str(raised.value)


def test_both_formats_describe_the_same_product(tmp_path: Path) -> None:
    (ours,) = read_updates(mlx_adapter(tmp_path / "mlx"))
    (theirs,) = read_updates(peft_adapter(tmp_path / "peft"))
    for update in (ours, theirs):
        assert (update.module, update.inputs, update.outputs, update.rank) == (Q_PROJ, 8, 6, 2)
    assert (ours.scale, theirs.scale) == (10.0, 8.0)


def test_pefts_scales_follow_its_settings(tmp_path: Path) -> None:
    def scale(config: dict[str, Any]) -> float:
        return read_updates(peft_adapter(tmp_path / "a", config))[0].scale

    assert scale({"use_rslora": True}) == pytest.approx(16 / 2**0.5)
    assert scale({"alpha_pattern": {"q_proj": 6}}) == 3.0
    assert scale({"alpha_pattern": {"k_proj": 6}}) == 8.0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"fine_tune_type": "dora"}, "fine_tune_type is 'dora'"),
        ({"fine_tune_type": "full"}, "fine_tune_type is 'full'"),
        ({"lora_parameters": {"alpha": 3}}, "states no number as lora_parameters.scale"),
        ([], "holds a list"),
    ],
)
def test_what_mlx_lm_made_and_cannot_be_served(tmp_path: Path, config: Any, message: str) -> None:
    assert message in refusal(mlx_adapter(tmp_path / "a", config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"alpha_pattern": {".*(q|k)_proj": 3}}, "expressions are not evaluated"),
        ({"lora_alpha": "many"}, "lora_alpha"),
    ],
)
def test_what_peft_made_and_cannot_be_served(tmp_path: Path, config: Any, message: str) -> None:
    assert message in refusal(peft_adapter(tmp_path / "a", config))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{Q_PROJ}.lora_a": zeros(8, 2)}, "no 'model.layers.0.self_attn.q_proj.lora_b'"),
        ({f"{Q_PROJ}.lora_a": zeros(8, 2), f"{Q_PROJ}.lora_b": zeros(3, 6)}, "has rank 2"),
        ({f"{Q_PROJ}.lora_a": zeros(4, 8, 2), f"{Q_PROJ}.lora_b": zeros(4, 2, 6)}, "only linear layers"),
        ({f"{Q_PROJ}.m": zeros(4)}, "DoRA"),
        ({f"{Q_PROJ}.lora_a": np.zeros((8, 2), np.int8)}, "is of type I8"),
    ],
)
def test_tensors_that_are_no_plain_products(tmp_path: Path, tensors: Any, message: str) -> None:
    assert message in refusal(mlx_adapter(tmp_path / "a", None, **tensors))


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    folder = peft_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickle" in refusal(folder)


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    weights = mlx_adapter(tmp_path / "a") / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "beyond the file's end" in refusal(tmp_path / "a")


@settings(deadline=None)
@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda text: struct.pack("<Q", len(text)) + text))
def test_any_bytes_are_refused_in_words(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("a")
    (mlx_adapter(folder) / "adapters.safetensors").write_bytes(content)
    assert refusal(folder)
    shutil.rmtree(folder)


def test_an_adapter_is_imported_once_and_outlives_its_folder(tmp_path: Path) -> None:
    store, folder = ModelStore(tmp_path / "store"), mlx_adapter(tmp_path / "a")
    adapter = store.locate_adapter("base", "sql", str(folder), quiet)
    stored = adapter.weights.parent
    assert stored.parent == tmp_path / "store" / "models" / "base%3Asql"
    manifest = read_manifest(stored)
    assert (manifest.name, manifest.source.kind, manifest.source.location) == ("base:sql", "adapter", str(folder))
    written = (stored / "adapters.safetensors").stat().st_mtime_ns
    shutil.rmtree(folder)
    assert store.locate_adapter("base", "sql", str(folder), quiet) == adapter
    assert (stored / "adapters.safetensors").stat().st_mtime_ns == written


def test_a_changed_folder_is_imported_anew_and_is_another_adapter(tmp_path: Path) -> None:
    store, folder = ModelStore(tmp_path / "store"), mlx_adapter(tmp_path / "a")
    before = store.locate_adapter("base", "sql", str(folder), quiet)
    mlx_adapter(folder, MLX | {"lora_parameters": {"rank": 2, "scale": 5.5}})
    after = store.locate_adapter("base", "sql", str(folder), quiet)
    assert after.updates[0].scale == 5.5
    assert after.fingerprint != before.fingerprint


def test_what_cannot_be_served_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    with pytest.raises(ModelStoreError, match="no such folder"):
        store.locate_adapter("base", "sql", str(tmp_path / "absent"), quiet)
    with pytest.raises(ModelStoreError, match="'dora'"):
        store.locate_adapter("base", "sql", str(mlx_adapter(tmp_path / "a", {"fine_tune_type": "dora"})), quiet)
    assert not list((tmp_path / "store" / "models").iterdir())
    assert not list((tmp_path / "store" / "incoming").iterdir())


def test_an_adapter_comes_from_the_hub_and_is_no_model_of_the_store(tmp_path: Path) -> None:
    folder = peft_adapter(tmp_path / "a")
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"adapter_model.bin": b"a pickle"}
    with HubServer({"org/sql": files}) as hub:
        downloads = DownloadsConfig(endpoint=hub.endpoint, disk_free_bytes=0)
        store = ModelStore(tmp_path / "store", downloads)
        adapter = store.locate_adapter("base", "sql", "org/sql", quiet)
        asked = len(hub.requests)
        assert store.locate_adapter("base", "sql", "org/sql", quiet) == adapter
        assert len(hub.requests) == asked
    assert adapter.updates == read_updates(folder)
    assert store.list_models() == []


def test_an_adapter_is_no_model_of_the_store(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    store.locate_adapter("base", "sql", str(mlx_adapter(tmp_path / "a")), quiet)
    assert store.list_models() == []


def test_entries_are_names_and_folders() -> None:
    assert read_adapter_entry("sql=/models/my=sql") == ("sql", "/models/my=sql")
    assert read_adapter_entry("/models/sql") == ("sql", "/models/sql")
    for wrong in ("", "=/models/a", "a:b=/models/a", "a=", "latest=/models/a"):
        with pytest.raises(ConfigError, match="names no adapter"):
            read_adapter_entry(wrong)
