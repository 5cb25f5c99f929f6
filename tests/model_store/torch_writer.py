"""Checkpoints as PyTorch writes them, put together by hand: torch is not installed where the tests run.

The layouts were compared with files that torch 2.13 wrote.
"""

import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

REBUILD = ("torch._utils", "_rebuild_tensor_v2")
PROTOCOL, STOP = b"\x80\x02", b"."
STORAGES = {"<f8": "Double", "<f4": "Float", "<f2": "Half", "<i8": "Long", "|u1": "Byte", "|b1": "Bool"}


@dataclass(frozen=True)
class Stored:
    """A tensor over the whole of `storage`, or another view of it. `kind` is PyTorch's word for the type."""

    storage: NDArray[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    kind: str = ""

    @property
    def storage_kind(self) -> str:
        return (self.kind or STORAGES[self.storage.dtype.str]) + "Storage"


def whole(array: NDArray[Any], kind: str = "") -> Stored:
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Stored(array.reshape(-1), array.shape, strides, kind=kind)


# --- instructions of pickle's machine ---


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    return f"I{value}\n".encode()


def group(*parts: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(parts) + b"t"


def call(function: tuple[str, str], *arguments: bytes) -> bytes:
    return name(*function) + group(*arguments) + b"R"


def dictionary(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def tensor(stored: Stored, key: str, *, legacy: bool = False) -> bytes:
    view = [b"N"] if legacy else []
    place = group(
        text("storage"), name("torch", stored.storage_kind), text(key), text("cpu"), integer(stored.storage.size), *view
    )
    sizes = (group(*map(integer, numbers)) for numbers in (stored.shape, stored.strides))
    hooks = call(("collections", "OrderedDict"))
    return call(REBUILD, place + b"Q", integer(stored.offset), *sizes, b"I00\n", hooks)


# --- files ---


def write_zip(path: Path, pickle: bytes, storages: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", PROTOCOL + pickle + STOP)
        archive.writestr("archive/byteorder", b"little")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return path


def write_checkpoint(path: Path, tensors: Mapping[str, Stored]) -> Path:
    """Tensors over one and the same storage share it in the file."""
    keys = _keys(tensors.values())
    pickle = dictionary({name: tensor(stored, keys[id(stored.storage)]) for name, stored in tensors.items()})
    storages = {keys[id(stored.storage)]: stored.storage.tobytes() for stored in tensors.values()}
    return write_zip(path, pickle, storages)


def write_legacy(path: Path, tensors: Mapping[str, Stored]) -> Path:
    """As PyTorch did before version 1.6."""
    keys = _keys(tensors.values())
    pickle = dictionary(
        {name: tensor(stored, keys[id(stored.storage)], legacy=True) for name, stored in tensors.items()}
    )
    magic = b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
    machine = b"}(" + text("little_endian") + b"I01\n" + b"u"
    order = b"](" + b"".join(map(text, keys.values())) + b"e"
    storages = {keys[id(stored.storage)]: stored.storage for stored in tensors.values()}
    path.write_bytes(
        b"".join(PROTOCOL + part + STOP for part in (magic, integer(1001), machine, pickle, order))
        + b"".join(struct.pack("<q", storages[key].size) + storages[key].tobytes() for key in keys.values())
    )
    return path


def _keys(tensors: Any) -> dict[int, str]:
    storages: Sequence[int] = list(dict.fromkeys(id(stored.storage) for stored in tensors))
    return {storage: str(number) for number, storage in enumerate(storages)}
