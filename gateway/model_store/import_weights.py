"""Makes a model folder of safetensors or PyTorch weights and of what belongs to them.

Weights that are safetensors already are linked where the disk can do that, and copied where not.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import ModelFilesInvalid
from gateway.model_store.safetensors_file import Outgoing, write_safetensors
from gateway.model_store.safetensors_header import read_safetensors_header
from gateway.model_store.store_folders import Report, require_space
from gateway.model_store.torch_file import read_torch_file
from gateway.model_store.weights_found import SafetensorsFound, TorchFound

SPACE_FOR_THE_REST = 64 << 20  # bytes: the tokenizer and configuration files
LONGEST_COMPANION = 64 << 20  # bytes; the largest tokenizers have some 35 MB
LICENCE_IN_CARD = re.compile(r"\A---\n.*?^license:[ \t]*['\"]?([\w.+-]+)", re.DOTALL | re.MULTILINE)
"""The front matter of a model card, as Hugging Face writes it."""


def import_safetensors(found: SafetensorsFound, destination: Path, report: Report) -> str:
    """Returns the licence that the model's card names, or "". Raises ModelFilesInvalid, ModelStoreError and OSError."""
    report(0.0, "reading the headers")
    names = Counter(name for file in found.files.values() for name in read_safetensors_header(file))
    _refuse_doubles(destination, names)
    _take_companions(found.companions, destination)
    total_bytes = sum(file.stat().st_size for file in found.files.values())
    done_bytes = 0
    for name, file in found.files.items():
        report(done_bytes / max(1, total_bytes), f"taking {name}")
        _link_or_copy(file, destination / name)
        done_bytes += file.stat().st_size
    report(1.0, "written")
    return _licence(found.companions)


def import_torch(found: TorchFound, destination: Path, report: Report) -> str:
    """As `import_safetensors`. No code of a checkpoint runs; see torch_pickle.py."""
    report(0.0, "reading the checkpoints")
    tensors: list[Outgoing] = [tensor for file in found.files for tensor in read_torch_file(file)]
    _refuse_doubles(destination, Counter(tensor.name for tensor in tensors))
    total_bytes = sum(tensor.size_bytes for tensor in tensors)
    require_space(destination, total_bytes + SPACE_FOR_THE_REST)
    _take_companions(found.companions, destination)
    write_safetensors(
        destination / "model.safetensors",
        tensors,
        lambda done_bytes: report(done_bytes / max(1, total_bytes), "converting the weights"),
    )
    report(1.0, "written")
    return _licence(found.companions)


def _refuse_doubles(destination: Path, names: Mapping[str, int]) -> None:
    if doubles := sorted(name for name, count in names.items() if count > 1):
        raise ModelFilesInvalid(destination, f"several of its files hold {', '.join(doubles[:4])}")


def _take_companions(companions: Mapping[str, Path], destination: Path) -> None:
    """Copies, so that nobody changes them in the store by editing the original."""
    for name, file in companions.items():
        if file.stat().st_size > LONGEST_COMPANION:
            raise ModelFilesInvalid(file, f"has {file.stat().st_size} bytes; at most {LONGEST_COMPANION} are read")
        (destination / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, destination / name)


def _link_or_copy(file: Path, destination: Path) -> None:
    """A file behind a symbolic link, as in Hugging Face's cache, is taken itself."""
    original = file.resolve(strict=True)
    try:
        os.link(original, destination)
    except OSError:  # another file system, or one without hard links, or not our file
        require_space(destination.parent, original.stat().st_size)
        shutil.copyfile(original, destination)


def _licence(companions: Mapping[str, Path]) -> str:
    card = companions.get("README.md")
    match = LICENCE_IN_CARD.match(card.read_text(encoding="utf-8", errors="replace")) if card else None
    return match[1] if match else ""
