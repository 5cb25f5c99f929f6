"""From files of any kind to a model of the store that was tried before it is listed."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gateway.errors import ModelFilesInvalid, ModelStoreError
from gateway.model_store.manifest import read_manifest
from gateway.model_store.sources import ImportSource, read_import
from gateway.model_store.store import ModelStore, StoredModel

from .float32_model import float32_model
from .tiny_gguf import write_gguf
from .torch_writer import call, dictionary, text, whole, write_checkpoint, write_zip

Report = Callable[[float, str], None]
PROMPT = mx.array([[1, 17, 42, 260, 3]])
CARD = "---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n"


@pytest.fixture
def original(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder as Hugging Face's hub has them, with things that must not be taken."""
    folder = tmp_path / "original"
    shutil.copytree(tiny_folder, folder)
    (folder / "README.md").write_text(CARD)
    (folder / "modeling_tiny.py").write_text("raise SystemExit('executed')")
    (folder / "training_args.bin").write_bytes(b"no model")
    return folder


@pytest.fixture
def import_path(root: Path, silent: Report) -> Callable[[Path], StoredModel]:
    return lambda path: ModelStore(root).import_model(read_import(str(path)), silent)


Import = Callable[[Path], StoredModel]


def logits(folder: Path) -> Any:
    return np.array(float32_model(folder)(PROMPT))


def as_torch(folder: Path, name: str = "pytorch_model.bin") -> Path:
    """The folder's weights as a checkpoint of the same numbers."""
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    file = write_checkpoint(folder / name, {name: whole(np.array(array)) for name, array in arrays.items()})
    (folder / "model.safetensors").unlink()
    return file


def test_a_folder_becomes_a_model(original: Path, import_path: Import, root: Path, silent: Report) -> None:
    model = import_path(original)

    assert model.model_id == "original"
    assert model.manifest is not None
    assert model.manifest.checked == ["headers", "tokenizer", "shapes", "forward pass"]
    assert (model.manifest.source.kind, model.manifest.licence) == ("import", "apache-2.0")
    assert model.manifest == read_manifest(model.folder)
    taken = {path.name for path in model.folder.iterdir() if not path.name.startswith("gateway-")}
    assert taken == set(model.manifest.files)
    assert taken == {"config.json", "generation_config.json", "model.safetensors", "README.md"} | {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert os.path.samefile(model.folder / "model.safetensors", original / "model.safetensors")
    assert not os.path.samefile(model.folder / "config.json", original / "config.json")
    np.testing.assert_array_equal(logits(model.folder), logits(original))
    assert ModelStore(root).locate("original", silent) == model
    assert [listed.model_id for listed in ModelStore(root).list_models()] == ["original"]


def test_files_behind_links_are_taken_as_files(original: Path, import_path: Import, tmp_path: Path) -> None:
    """Hugging Face's cache has links into a folder of blobs."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in original.iterdir():
        (snapshot / path.name).symlink_to(path)

    model = import_path(snapshot)

    assert not any(path.is_symlink() for path in model.folder.iterdir())


def test_a_checkpoint_becomes_safetensors(original: Path, import_path: Import) -> None:
    expected = logits(original)
    as_torch(original)

    model = import_path(original)

    assert not (model.folder / "pytorch_model.bin").exists()
    np.testing.assert_array_equal(logits(model.folder), expected)


def test_shards_of_a_checkpoint_become_one_model(original: Path, import_path: Import) -> None:
    expected = logits(original)
    arrays: Any = mx.load(str(original / "model.safetensors"))
    places = {name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, name in enumerate(arrays)}
    for shard in set(places.values()):
        tensors = {name: whole(np.array(array)) for name, array in arrays.items() if places[name] == shard}
        write_checkpoint(original / shard, tensors)
    (original / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    (original / "model.safetensors").unlink()

    model = import_path(original)

    np.testing.assert_array_equal(logits(model.folder), expected)


def test_bfloat16_stays_bfloat16(original: Path, import_path: Import) -> None:
    arrays: Any = mx.load(str(original / "model.safetensors"))
    halves = {name: array.astype(mx.bfloat16) for name, array in arrays.items()}
    words = {name: np.array(array.view(mx.uint16)) for name, array in halves.items()}
    write_checkpoint(original / "pytorch_model.bin", {name: whole(array, "BFloat16") for name, array in words.items()})
    (original / "model.safetensors").unlink()

    model = import_path(original)

    loaded: Any = mx.load(str(model.folder / "model.safetensors"))
    assert all(
        mx.array_equal(loaded[name], array) and loaded[name].dtype == mx.bfloat16 for name, array in halves.items()
    )


def test_a_single_file_needs_its_companions_beside_it(original: Path, import_path: Import, tmp_path: Path) -> None:
    expected = logits(original)
    (original / "model.safetensors").rename(original / "fine.safetensors")
    assert import_path(original / "fine.safetensors").model_id == "fine"
    np.testing.assert_array_equal(logits(import_path(original / "fine.safetensors").folder), expected)
    lonely = tmp_path / "lonely" / "weights.pt"
    lonely.parent.mkdir()
    shutil.copy(original / "fine.safetensors", lonely)
    with pytest.raises(ModelFilesInvalid, match=r"there is no config\.json and no tokenizer\.json beside weights\.pt"):
        import_path(lonely)


@pytest.mark.parametrize("name", ["m-00001-of-00003.gguf", "model-00002-of-00010.safetensors", "p-00001-of-00002.bin"])
def test_a_part_of_a_model_is_told_to_be_one(name: str, import_path: Import, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"part")
    with pytest.raises(ModelFilesInvalid, match=r"is one of (2|3|10) parts of a model"):
        import_path(tmp_path / name)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_is_unpacked_and_what_is_inside_imported(
    kind: str, original: Path, import_path: Import, tmp_path: Path
) -> None:
    expected = logits(original)
    as_torch(original)
    packed = shutil.make_archive(str(tmp_path / "m"), {"tar.gz": "gztar"}.get(kind, kind), tmp_path, "original")

    model = import_path(Path(packed))

    assert model.model_id == "m"
    np.testing.assert_array_equal(logits(model.folder), expected)
    assert not any(path.name.startswith(".") for path in model.folder.iterdir())


def test_a_gguf_in_an_archive_is_imported(import_path: Import, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", {"tokenizer.chat_template": "{{ messages[0].content }}"})
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        archive.write(file, "folder/tiny.gguf")

    assert import_path(tmp_path / "g.zip").manifest is not None


def refused(import_path: Import, path: Path, root: Path, reason: str) -> None:
    with pytest.raises(ModelStoreError, match=reason) as refusal:
        import_path(path)
    assert "incoming" not in str(refusal.value)
    assert list((root / "incoming").iterdir()) == []
    assert list((root / "models").iterdir()) == []


def spoil_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def too_wide(folder: Path) -> None:
    spoil_config(folder, intermediate_size=256)


def unknown_architecture(folder: Path) -> None:
    spoil_config(folder, model_type="frobnicator")


def code_in_the_config(folder: Path) -> None:
    spoil_config(folder, model_file="modeling_tiny.py")


def a_tensor_too_few(folder: Path) -> None:
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    del arrays["model.layers.1.mlp.up_proj.weight"]
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)


def not_a_number(folder: Path) -> None:
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    arrays["model.norm.weight"] = arrays["model.norm.weight"] * float("nan")
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)


def cut_short(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 4)


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").unlink()


def a_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-00001-of-00002.safetensors"}}')


def a_shard_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../model.safetensors"}}')


SPOILED: dict[Callable[[Path], None], str] = {
    too_wide: r"\(128, 64\)|shape",
    unknown_architecture: "frobnicator",
    code_in_the_config: r"asks to execute 'modeling_tiny\.py'",
    a_tensor_too_few: r"model\.layers\.1\.mlp\.up_proj\.weight",
    not_a_number: "not finite",
    cut_short: "cut short",
    no_tokenizer: r"there is no tokenizer\.json in it",
    broken_tokenizer: "cannot be loaded",
    no_weights: "it has no weights",
    a_missing_shard: r"model-00001-of-00002\.safetensors of model\.safetensors\.index\.json is missing",
    a_shard_elsewhere: "which is no file beside it",
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_what_does_not_compute_is_not_listed(
    spoil: Callable[[Path], None], original: Path, import_path: Import, root: Path
) -> None:
    spoil(original)
    refused(import_path, original, root, SPOILED[spoil])


def test_a_malicious_checkpoint_is_refused_by_the_name_it_asks_for(
    original: Path, import_path: Import, root: Path, tmp_path: Path
) -> None:
    as_torch(original)
    witness = tmp_path / "executed"
    evil = call(("posix", "system"), text(f"touch {witness}"))
    write_zip(original / "pytorch_model.bin", dictionary({"w": evil}), {})

    refused(import_path, original, root, r"pytorch_model\.bin: its pickle asks for posix\.system")

    assert not witness.exists()


def test_a_failed_import_leaves_the_earlier_model(original: Path, import_path: Import, root: Path) -> None:
    first = import_path(original)
    too_wide(original)
    with pytest.raises(ModelFilesInvalid):
        import_path(original)
    (listed,) = ModelStore(root).list_models()
    assert listed.manifest == first.manifest
    logits(listed.folder)


def test_what_stops_the_report_stops_the_import(original: Path, root: Path) -> None:
    class Enough(Exception):
        pass

    def stop(fraction: float, _doing: str) -> None:
        if fraction > 0.7:
            raise Enough

    with pytest.raises(Enough):
        ModelStore(root).import_model(read_import(str(original)), stop)
    assert list((root / "incoming").iterdir()) == []


def test_an_id_and_a_path_are_checked(tmp_path: Path) -> None:
    assert read_import(str(tmp_path), "org/name") == ImportSource(tmp_path, "org/name")
    (tmp_path / "a.b.tar.gz").touch()
    assert read_import(str(tmp_path / "a.b.tar.gz")).model_id == "a.b"
    for path, model_id in (("", ""), ("/no/such", ""), (str(tmp_path), "x" * 201), (str(tmp_path), "a\nb")):
        with pytest.raises(ModelStoreError):
            read_import(path, model_id)
