"""Small versions of one model, published the way the store does it."""

from pathlib import Path

from gateway.model_store.manifest import Source, describe_folder, write_manifest
from gateway.model_store.store_folders import StoreFolders, folder_name

MODEL = "org/model"
NAME = folder_name(MODEL)


def publish_version(folders: StoreFolders, number: int, model_id: str = MODEL) -> str:
    """Make and publish version `number`; every file of it holds the number. Returns the version's name."""
    name = folder_name(model_id)
    incoming = folders.incoming(name)
    incoming.mkdir(exist_ok=True)
    for file in ("config.json", "model.safetensors"):
        (incoming / file).write_text(str(number) * 100)
    source = Source(kind="hub", location=model_id, revision=f"{number:040x}"[::-1])
    manifest = describe_folder(incoming, name=model_id, source=source, licence="mit", made_by="test")
    write_manifest(incoming, manifest)
    return folders.publish(name).name


def number_of(folder: Path) -> int:
    """Which version that is; fails if it is a mixture."""
    numbers = {(folder / file).read_text() for file in ("config.json", "model.safetensors")}
    assert len(numbers) == 1
    (number,) = numbers
    assert len(number) % 100 == 0
    return int(number[: len(number) // 100])
