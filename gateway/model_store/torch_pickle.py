"""Reads the pickle of a PyTorch checkpoint without executing anything of it.

A pickle is a program that names functions and calls them. Here it may name only those that put tensors together, and
what it gets for their names are the plain objects of this file. Any other name is refused before it is looked up.
"""

import mmap
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

Content = BytesIO | mmap.mmap
"""Where pickles lie: `read` makes room for no more than is there, whatever length they claim."""

MOST_MEMOS = 1 << 22
"""Objects that a pickle may number; the largest models have some ten thousand tensors."""


class TorchFileRefused(Exception):
    """Says what is wrong with the file, without its name."""


class _Fixed:
    """What a pickle gets for its names; it cannot change them by its BUILD instruction."""

    def __setstate__(self, _state: object) -> None:
        raise TorchFileRefused("its pickle changes what describes a tensor")


@dataclass(frozen=True)
class ElementType(_Fixed):
    """`carrier` is what numpy holds it in, `type_name` what safetensors calls it."""

    carrier: "np.dtype[Any]"
    type_name: str


def _element(carrier: str, type_name: str) -> ElementType:
    return ElementType(np.dtype(carrier), type_name)


ELEMENTS: Mapping[str, ElementType] = {
    "Double": _element("<f8", "F64"),
    "Float": _element("<f4", "F32"),
    "Half": _element("<f2", "F16"),
    "BFloat16": _element("<u2", "BF16"),
    "Long": _element("<i8", "I64"),
    "Int": _element("<i4", "I32"),
    "Short": _element("<i2", "I16"),
    "Char": _element("i1", "I8"),
    "Byte": _element("u1", "U8"),
    "Bool": _element("u1", "BOOL"),
}
"""By the name of PyTorch's storage class, without its ending."""

DTYPES: Mapping[str, ElementType] = {
    "float64": ELEMENTS["Double"],
    "float32": ELEMENTS["Float"],
    "float16": ELEMENTS["Half"],
    "bfloat16": ELEMENTS["BFloat16"],
    "int64": ELEMENTS["Long"],
    "int32": ELEMENTS["Int"],
    "int16": ELEMENTS["Short"],
    "int8": ELEMENTS["Char"],
    "uint8": ELEMENTS["Byte"],
    "uint16": _element("<u2", "U16"),
    "uint32": _element("<u4", "U32"),
    "bool": ELEMENTS["Bool"],
}


@dataclass(frozen=True)
class StorageType(_Fixed):
    """A storage class of PyTorch; `element` is None for storages of plain bytes."""

    element: ElementType | None


@dataclass(frozen=True)
class Storage(_Fixed):
    """A run of elements, by the key of its bytes in the file; `start` and `count` in elements."""

    key: str
    element: ElementType | None
    count: int
    start: int = 0


@dataclass(frozen=True)
class TorchTensor(_Fixed):
    """`offset` and `strides` in elements, as PyTorch has them. Checked against the storage's length."""

    storage: Storage
    element: ElementType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Callable(_Fixed):
    """Stands for one function."""

    call: Callable[..., object]

    def __call__(self, *arguments: object) -> object:
        return self.call(*arguments)


def read_pickle(content: Content, *, legacy: bool = False) -> object:
    """The object that the pickle at the position of `content` describes, tensors as `TorchTensor`.

    Leaves `content` behind the pickle. `legacy`: storages are named as they were before PyTorch 1.6. Raises
    TorchFileRefused, which names the global when the pickle asks for one that is not allowed.
    """
    start = content.tell()
    _check_opcodes(content)
    size = content.tell() - start
    content.seek(start)
    try:
        return _Reader(BytesIO(content.read(size)), legacy).load()
    except TorchFileRefused:
        raise
    except Exception as error:  # a wrong pickle makes pickle raise anything
        raise TorchFileRefused(f"its pickle is broken: {type(error).__name__}: {error}") from error


def _check_opcodes(content: Content) -> None:
    """Walks over the pickle, so that no length or number in it can ask for more memory than the file has bytes."""
    try:
        for opcode, argument, _ in pickletools.genops(content):  # type: ignore[arg-type]  # it reads, and asks where it is
            if "PUT" in opcode.name and isinstance(argument, int) and argument > MOST_MEMOS:
                raise TorchFileRefused(f"its pickle numbers an object {argument}")
    except ValueError as error:
        raise TorchFileRefused(f"its pickle is broken: {error}") from error


class _Reader(pickle.Unpickler):
    def __init__(self, content: BytesIO, legacy: bool) -> None:
        super().__init__(content, encoding="utf-8")
        self._legacy = legacy

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            kind = name.removesuffix("Storage")
            if kind in ELEMENTS:
                return StorageType(ELEMENTS[kind])
            if kind == "Untyped":
                return StorageType(None)
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise TorchFileRefused(
            f"its pickle asks for {module}.{name}, which is not needed to describe tensors. It was not executed. Only "
            "state dictionaries (torch.save(model.state_dict(), ...)) can be imported."
        )

    def persistent_load(self, pid: object) -> object:
        """Where PyTorch leaves a storage out of the pickle."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise TorchFileRefused("its pickle refers to something that is no storage")
        _, kind, key, _, count, *view = pid
        well_formed = isinstance(kind, StorageType) and isinstance(key, str) and _is_count(count)
        if not well_formed or (view and not self._legacy):
            raise TorchFileRefused("its pickle describes a storage in an unknown way")
        if not view or view[0] is None:
            return Storage(key, kind.element, count)
        view_key, start, view_count = _three(view[0])  # a legacy storage may be a part of another
        if not _is_count(start) or not _is_count(view_count) or start + view_count > count:
            raise TorchFileRefused(f"a view of the storage {view_key} reaches beyond its end")
        return Storage(key, kind.element, count, start)


def _three(value: object) -> tuple[Any, Any, Any]:
    if not isinstance(value, tuple) or len(value) != 3:
        raise TorchFileRefused("its pickle describes a storage in an unknown way")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _rebuild_tensor(storage: object, offset: object, shape: object, strides: object, *_gradient: object) -> TorchTensor:
    """`torch._utils._rebuild_tensor_v2`: what follows the strides concerns training."""
    if not isinstance(storage, Storage) or storage.element is None:
        raise TorchFileRefused("its pickle has a tensor without a storage")
    return _checked_tensor(storage, storage.element, offset, shape, strides)


def _rebuild_tensor_with_dtype(
    storage: object, offset: object, shape: object, strides: object, _gradient: object, _hooks: object,
    element: object, *_metadata: object,
) -> TorchTensor:  # fmt: skip
    """`torch._utils._rebuild_tensor_v3`: the storage is of plain bytes."""
    if not isinstance(storage, Storage) or not isinstance(element, ElementType):
        raise TorchFileRefused("its pickle has a tensor without a storage or a type")
    whole = Storage(storage.key, element, storage.count // element.carrier.itemsize)
    return _checked_tensor(whole, element, offset, shape, strides)


def _checked_tensor(
    storage: Storage, element: ElementType, offset: object, shape: object, strides: object
) -> TorchTensor:
    """No element lies outside the storage, and no two share a place: sharing, a small file could claim any size."""
    well_formed = (
        _is_count(offset)
        and isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) == len(strides) <= 8
        and all(map(_is_count, (*shape, *strides)))
    )
    if not well_formed:
        raise TorchFileRefused("its pickle has a tensor of impossible shape")
    assert isinstance(offset, int)
    assert isinstance(shape, tuple)
    assert isinstance(strides, tuple)
    span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    elements = int(np.prod(shape, dtype=object))
    if elements and (offset + span > storage.count - storage.start or elements > span):
        raise TorchFileRefused(
            f"a tensor of the shape {shape} with the strides {strides} at {offset} does not fit into its storage of "
            f"{storage.count - storage.start} elements"
        )
    return TorchTensor(storage, element, offset, shape, strides)


def _rebuild_parameter(data: object, *_gradient: object) -> object:
    if not isinstance(data, TorchTensor):
        raise TorchFileRefused("its pickle has a parameter that is no tensor")
    return data


ALLOWED: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): _Callable(lambda sizes=(): tuple(sizes)),
    ("torch._utils", "_rebuild_tensor_v2"): _Callable(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Callable(_rebuild_tensor_with_dtype),
    ("torch._utils", "_rebuild_parameter"): _Callable(_rebuild_parameter),
}
