"""What a path offers to import: which files hold the weights, and what else of the model lies beside them.

Decides from names alone; the first kind that is there wins, safetensors before what must be converted.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ModelFilesInvalid

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TORCH = (".bin", ".pt", ".pth")
OF_TRAINING = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "adapter_model")
"""Beginnings of names of PyTorch files that hold no model."""

PART = re.compile(r"-\d{5}-of-0*([2-9]|[1-9]\d+)\.\w+$")

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "LICENSE",
    "LICENSE.txt",
    "README.md",
)
"""What belongs to a model besides its weights; code and everything else stays where it is."""
NEEDED = ("config.json", "tokenizer.json")


@dataclass(frozen=True)
class GgufFound:
    """Holds everything by itself."""

    file: Path


@dataclass(frozen=True)
class SafetensorsFound:
    """`files` by the names that mlx-lm looks for; `companions` by theirs."""

    files: dict[str, Path]
    companions: dict[str, Path]


@dataclass(frozen=True)
class TorchFound:
    """PyTorch checkpoints that make up one model."""

    files: tuple[Path, ...]
    companions: dict[str, Path]


@dataclass(frozen=True)
class ArchiveFound:
    file: Path


Found = GgufFound | SafetensorsFound | TorchFound | ArchiveFound


def archive_suffix(name: str) -> str:
    """The ending that makes it an archive, or ""."""
    return next((suffix for suffix in sorted(ARCHIVES, key=len, reverse=True) if name.lower().endswith(suffix)), "")


def find_weights(path: Path) -> Found:
    """Raises ModelFilesInvalid that says what was looked for, or what is missing."""
    if not path.is_dir():
        return _in_file(path)
    if files := _safetensors(path):
        return SafetensorsFound(files, _companions(path))
    if torch := _torch(path):
        return TorchFound(torch, _companions(path))
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _in_file(ggufs[0])
    if ggufs:
        raise ModelFilesInvalid(path, f"it has several GGUF files, {_listed(ggufs)}. Import one of them.")
    raise ModelFilesInvalid(
        path, "it has no weights: there is no *.safetensors, pytorch_model*.bin, *.pt, *.pth or *.gguf in it"
    )


def _in_file(path: Path) -> Found:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ModelFilesInvalid(path, "there is no such file or folder")
    if part := PART.search(path.name):
        join = "Join them with llama-gguf-split --merge" if suffix == ".gguf" else "Import the folder that has them all"
        raise ModelFilesInvalid(path, f"is one of {int(part[1])} parts of a model. {join}.")
    if suffix == ".gguf":
        return GgufFound(path)
    if suffix == ".safetensors":
        return SafetensorsFound({"model.safetensors": path}, _companions(path.parent, beside=path))
    if suffix in TORCH:
        return TorchFound((path,), _companions(path.parent, beside=path))
    if archive_suffix(path.name):
        return ArchiveFound(path)
    raise ModelFilesInvalid(
        path, f"its kind is not known. Import a model folder, or *.safetensors, *{', *'.join(TORCH)}, *.gguf, "
        f"*{', *'.join(ARCHIVES)}."
    )  # fmt: skip


def _safetensors(folder: Path) -> dict[str, Path]:
    """Those of the index, if there is one: a folder may hold the same weights twice."""
    indexed = _indexed(folder / "model.safetensors.index.json")
    named = indexed or sorted(folder.glob("model*.safetensors"))
    if named:
        return {file.name: file for file in named}
    others = sorted(folder.glob("weights*.safetensors")) or sorted(
        file for file in folder.glob("*.safetensors") if not file.name.startswith(("adapter", "consolidated"))
    )
    if len(others) == 1:
        return {"model.safetensors": others[0]}
    return {f"model-{number:05}-of-{len(others):05}.safetensors": file for number, file in enumerate(others, 1)}


def _torch(folder: Path) -> tuple[Path, ...]:
    if files := _indexed(folder / "pytorch_model.bin.index.json") or sorted(folder.glob("pytorch_model*.bin")):
        return tuple(files)
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in TORCH and not file.name.startswith(OF_TRAINING)
    )
    if len(files) > 1:
        raise ModelFilesInvalid(folder, f"it has several PyTorch files, {_listed(files)}. Import one of them.")
    return tuple(files)


def _indexed(index: Path) -> list[Path]:
    """The shards that an index names; none without an index."""
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFilesInvalid(index, f"is no index of weights: {type(error).__name__}: {error}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelFilesInvalid(index, f"names {str(name)[:80]!r}, which is no file beside it")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise ModelFilesInvalid(
            index.parent, f"{', '.join(missing[:4])} of {index.name} {'is' if len(missing) == 1 else 'are'} missing"
        )
    return [index.parent / name for name in names]


def _companions(folder: Path, beside: Path | None = None) -> dict[str, Path]:
    found = {name: folder / name for name in COMPANIONS if (folder / name).is_file()}
    if missing := [name for name in NEEDED if name not in found]:
        where = f"beside {beside.name}" if beside else "in it"
        raise ModelFilesInvalid(
            beside or folder,
            f"there is no {' and no '.join(missing)} {where}. Put the model's own there; weights need both",
        )
    return found


def _listed(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files[:4])
