"""The tensors of a PyTorch checkpoint (.bin, .pt, .pth), read as data: see torch_pickle.py for what its pickle may say.

Since version 1.6 it is a zip: `NAME/data.pkl`, and the bytes of storages in `NAME/data/KEY`, uncompressed. Before,
it was a run of pickles (magic number, protocol, machine, object, list of keys), then each storage behind its length.
Layout: torch/serialization.py of https://github.com/pytorch/pytorch.
"""

import mmap
import struct
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from gateway.errors import ModelFilesInvalid
from gateway.model_store.safetensors_file import Outgoing
from gateway.model_store.torch_pickle import Content, TorchFileRefused, TorchTensor, read_pickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
LONGEST_PICKLE = 256 << 20  # bytes; those of the largest models are some MB
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of an entry of a zip; at its end the lengths of what stands before the data
MOST_SHARING = 3
"""Tied weights lie in the file once; so many times its size a model may have."""
PIECE_ELEMENTS = 1 << 22
WRAPPERS = ("state_dict", "model", "module", "model_state_dict")
"""What training programs call the state dictionary within their checkpoints."""


def read_torch_file(path: Path) -> list[Outgoing]:
    """The checkpoint's tensors, ready to be written as safetensors; their bytes are read when they are.

    Raises ModelFilesInvalid: broken, not a state dictionary, or asking for code to be run.
    """
    try:
        content = _mapped(path)
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        found, storages = _read_zip(path, content) if is_zip else _read_legacy(path, content)
        tensors = [
            _outgoing(name, tensor, storages[tensor.storage.key]) for name, tensor in _state_dictionary(found).items()
        ]
        claimed_bytes = sum(tensor.size_bytes for tensor in tensors)
        if claimed_bytes > MOST_SHARING * len(content):
            raise TorchFileRefused(f"its tensors claim {claimed_bytes} bytes, and it has {len(content)}")
        return tensors
    except TorchFileRefused as error:
        raise ModelFilesInvalid(path, str(error)) from error


Storages = Mapping[str, memoryview]


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise TorchFileRefused("it is empty") from error


def _read_zip(path: Path, content: memoryview) -> tuple[object, Storages]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise TorchFileRefused(f"it is no whole zip: {error}") from error
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise TorchFileRefused("it is a zip, but has no NAME/data.pkl as PyTorch writes it")
    folder = pickles[0].removesuffix("data.pkl")
    if entries[pickles[0]].file_size > LONGEST_PICKLE:
        raise TorchFileRefused(f"its pickle has {entries[pickles[0]].file_size} bytes")
    order = entries.get(f"{folder}byteorder")
    if order is not None and order.file_size < 16 and bytes(_entry(content, order)) != b"little":
        raise TorchFileRefused("its numbers are not little-endian")
    found = read_pickle(BytesIO(_entry(content, entries[pickles[0]])))
    prefix = f"{folder}data/"
    storages = {
        name.removeprefix(prefix): _entry(content, entry)
        for name, entry in entries.items()
        if name.startswith(prefix) and entry.file_size
    }
    return found, _Storages(storages)


def _entry(content: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    """Where the entry lies in the file, uncompressed as PyTorch leaves it."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise TorchFileRefused(f"{entry.filename} within it is compressed or encrypted, which PyTorch never does")
    header = bytes(content[entry.header_offset : entry.header_offset + LOCAL_HEADER.size])
    if len(header) != LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise TorchFileRefused(f"{entry.filename} within it cannot be found")
    _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
    start = entry.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
    found = content[start : start + entry.file_size]
    if len(found) != entry.file_size:
        raise TorchFileRefused(f"{entry.filename} within it is cut off")
    return found


def _read_legacy(path: Path, content: memoryview) -> tuple[object, Storages]:
    if not content:
        raise TorchFileRefused("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pickles:
        found, keys = _legacy_pickles(pickles)
        at = pickles.tell()
    item_bytes = {tensor.storage.key: tensor.element.carrier.itemsize for tensor in _state_dictionary(found).values()}
    storages = _Storages()
    for key in keys:
        count = int.from_bytes(content[at : at + 8], "little")
        if key not in item_bytes:  # the next one's place is not known without its type
            raise TorchFileRefused(f"it has a storage {key[:80]!r} that no tensor uses")
        storages[key] = content[at + 8 : at + 8 + count * item_bytes[key]]
        at += 8 + count * item_bytes[key]
    return found, storages


def _legacy_pickles(pickles: Content) -> tuple[object, list[str]]:
    """The object, and the keys of the storages in the order of their bytes, which follow."""
    if read_pickle(pickles) != LEGACY_MAGIC:
        raise TorchFileRefused("it is not a PyTorch checkpoint")
    if read_pickle(pickles) != LEGACY_PROTOCOL:
        raise TorchFileRefused("it is of an unknown version of PyTorch's old format")
    machine = read_pickle(pickles)
    if not isinstance(machine, dict) or dict.get(machine, "little_endian") is not True:
        raise TorchFileRefused("its numbers are not little-endian")
    found = read_pickle(pickles, legacy=True)
    keys = read_pickle(pickles)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise TorchFileRefused("it has no list of storages")
    return found, keys


class _Storages(dict[str, memoryview]):
    """One that is not there, or has no bytes, is empty."""

    def __missing__(self, key: str) -> memoryview:
        return memoryview(b"")


def _state_dictionary(found: object) -> dict[str, TorchTensor]:
    """Names to tensors. `dict`'s own methods are called: a pickle can hide those of its dictionaries."""
    if not isinstance(found, dict):
        raise TorchFileRefused(f"it holds a {type(found).__name__}, not a state dictionary")
    for wrapper in WRAPPERS:
        if isinstance(inner := dict.get(found, wrapper), dict):
            found = inner
            break
    tensors = {}
    for name, tensor in dict.items(found):
        if not isinstance(name, str) or not isinstance(tensor, TorchTensor):
            raise TorchFileRefused(
                f"its entry {str(name)[:80]!r} is a {type(tensor).__name__}, not a tensor. Save the model's state "
                "dictionary alone: torch.save(model.state_dict(), ...)"
            )
        tensors[name] = tensor
    if not tensors:
        raise TorchFileRefused("it holds no tensors")
    return tensors


def _outgoing(name: str, tensor: TorchTensor, storage: memoryview) -> Outgoing:
    """Raises TorchFileRefused when the file has fewer bytes than the storage claims."""
    item_bytes = tensor.element.carrier.itemsize
    if len(storage) < tensor.storage.count * item_bytes:
        raise TorchFileRefused(
            f"the storage of {name} should have {tensor.storage.count * item_bytes} bytes and has {len(storage)}"
        )
    array = _view(tensor, storage)
    rows = max(1, PIECE_ELEMENTS // max(1, prod(tensor.shape[1:])))
    dtype, type_name = tensor.element.carrier, tensor.element.type_name
    if type_name == "F64":  # which mlx does not read
        dtype, type_name = np.dtype(np.float32), "F32"

    def pieces() -> Iterator[NDArray[Any]]:
        for start in range(0, len(array), rows):
            yield array[start : start + rows].astype(dtype, copy=False)

    return Outgoing(name, dtype, tensor.shape, pieces, type_name)


def _view(tensor: TorchTensor, storage: memoryview) -> NDArray[Any]:
    """At least one dimension; bounds were checked when the pickle was read, and the storage's length just now."""
    first = tensor.storage.start + tensor.offset
    shape, strides = tensor.shape or (1,), tensor.strides or (1,)
    if not prod(shape):
        return np.zeros(shape, tensor.element.carrier)
    elements = np.frombuffer(storage, tensor.element.carrier, tensor.storage.count)[first:]
    item_bytes = tensor.element.carrier.itemsize
    return as_strided(elements, shape, [stride * item_bytes for stride in strides], writeable=False)
