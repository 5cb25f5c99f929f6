"""One blob in one file. Nothing that is read is trusted: neither a length nor a token nor the name of a type.

    prefix     magic, version, length of the header, length of the file, id of the key, 16 random bytes
    header     sealed: what the blob is, its tokens, types and shapes (msgpack)
    payload    sealed: each array in turn

`cipher` explains seals. A file appears under its name only when it is complete, so that a killed process loses nothing
else; it is not flushed to the disk, and what a power failure leaves of it is found out by its length or its seals.
"""

import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from secrets import token_bytes
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
from msgspec import Meta

from gateway.prefix_cache.cipher import Cipher, Seal, SealBroken, sealed_bytes
from gateway.prefix_cache.extent import (
    BLOCK_TOKENS,
    DIGEST_BYTES,
    TOKEN_BYTES,
    Blob,
    BlobKey,
    Extent,
    Part,
    StoredArray,
    chain,
)

SUFFIX = ".kv"
UNFINISHED_NAME = "unfinished.temp"
"""One name for all: whatever goes wrong, there is never more than one, and it is overwritten."""

MAGIC = b"mlxg-kv\0"
VERSION = 1
PREFIX = struct.Struct("<8sIIQ8s16s")
SALT_BYTES = 16
MAX_HEADER_BYTES = 16 * 2**20
ALIGNMENT = 64

ITEM_BYTES = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
}


class Flaw(StrEnum):
    """Why a file is of no use."""

    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    FOREIGN_VERSION = "foreign_version"
    FOREIGN_KEY = "foreign_key"
    """Encrypted with another key; or not encrypted where it should be, or the reverse."""
    MISPLACED = "misplaced"
    """Sound, but not what its name or the index says."""
    UNFINISHED = "unfinished"
    UNREADABLE = "unreadable"
    MISSING = "missing"


class BadBlockFile(Exception):
    def __init__(self, flaw: Flaw, detail: str) -> None:
        super().__init__(f"{flaw}: {detail}")
        self.flaw = flaw


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """A blob without its payload."""

    extent: Extent
    part: Part
    first: int
    arrays: tuple[ArrayLayout, ...]

    @property
    def key(self) -> BlobKey:
        return BlobKey(self.extent.key, self.part)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Length = Annotated[int, Meta(ge=0)]


class _WrittenArray(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[tuple[Length, ...], Meta(max_length=8)]


class _WrittenHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    namespace: bytes
    parent: Digest
    start: Length
    tokens: Annotated[bytes, Meta(min_length=TOKEN_BYTES)]
    key: Digest
    part: Part
    first: Length
    arrays: tuple[_WrittenArray, ...]


def file_bytes(blob: Blob) -> int:
    """Exactly what `write` will make of it."""
    return _file_bytes(len(_encode(blob)), (len(array.data) for array in blob.arrays))


def write(path: Path, blob: Blob, cipher: Cipher, last_used_ns: int) -> None:
    """Makes `path`, which nobody else writes to, with `last_used_ns` as the time of its last change.

    Raises OSError, after which there is neither a file nor a part of one, or ValueError if the blob contradicts itself.
    """
    unfinished = path.with_name(UNFINISHED_NAME)
    unfinished.unlink(missing_ok=True)
    header = _encode(blob)
    prefix = PREFIX.pack(MAGIC, VERSION, len(header), file_bytes(blob), cipher.key_id, token_bytes(SALT_BYTES))
    seal = cipher.seal(prefix)
    try:
        with open(unfinished, "wb", opener=_create_for_owner) as file:
            file.write(prefix)
            seal.write(file, memoryview(header))
            for array in blob.arrays:
                seal.write(file, memoryview(array.data))
            file.flush()
            os.utime(file.fileno(), ns=(last_used_ns, last_used_ns))
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def read_header(path: Path, cipher: Cipher) -> BlockHeader:
    """What the file holds, without looking at its payload. Raises BadBlockFile or OSError."""
    with open(path, "rb", opener=_open_file_itself) as file:
        return _read_header(file, cipher)[0]


def read(path: Path, cipher: Cipher) -> Blob:
    """Raises BadBlockFile or OSError."""
    with open(path, "rb", opener=_open_file_itself) as file:
        header, seal = _read_header(file, cipher)
        offsets = []
        end = 0
        for array in header.arrays:
            offsets.append(end)
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        # Not a bytearray: that one is filled with zeros while the GIL is held, 6.5 ms for 12 MiB.
        payload = np.empty(end, np.uint8).data
        views = [payload[at : at + array.nbytes] for at, array in zip(offsets, header.arrays, strict=True)]
        for view in views:
            _read_sealed(seal, file, view)
    arrays = [
        StoredArray(array.dtype, array.shape, view.toreadonly())
        for array, view in zip(header.arrays, views, strict=True)
    ]
    return Blob(header.extent, header.part, header.first, arrays)


def _encode(blob: Blob) -> bytes:
    """Raises ValueError for whatever a reader would refuse."""
    extent = blob.extent
    layouts = tuple(_WrittenArray(array.dtype, array.shape) for array in blob.arrays)
    encoded = msgspec.msgpack.encode(
        _WrittenHeader(
            extent.namespace, extent.parent, extent.start, extent.tokens, extent.key, blob.part, blob.first, layouts
        )
    )
    if len(encoded) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(encoded)} bytes, of {MAX_HEADER_BYTES} at most")
    for layout, array in zip(_decode(encoded).arrays, blob.arrays, strict=True):
        if layout.nbytes != len(array.data):
            raise ValueError(f"an array of {layout.dtype}{layout.shape} has {len(array.data)} bytes")
    return encoded


def _read_header(file: BinaryIO, cipher: Cipher) -> tuple[BlockHeader, Seal]:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise BadBlockFile(Flaw.CORRUPT, "not a regular file")
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        raise BadBlockFile(Flaw.TRUNCATED, f"only {len(prefix)} bytes")
    magic, version, header_bytes, length, key_id, _ = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise BadBlockFile(Flaw.CORRUPT, "it does not begin like a block file")
    if version != VERSION:
        raise BadBlockFile(Flaw.FOREIGN_VERSION, f"version {version}, not {VERSION}")
    if key_id != cipher.key_id:
        raise BadBlockFile(Flaw.FOREIGN_KEY, "sealed with another key")
    if length != status.st_size:
        raise BadBlockFile(Flaw.TRUNCATED, f"{status.st_size} bytes, not {length}")
    if header_bytes > min(status.st_size, MAX_HEADER_BYTES):
        raise BadBlockFile(Flaw.CORRUPT, f"a header of {header_bytes} bytes in a file of {status.st_size}")
    seal = cipher.seal(prefix)
    encoded = bytearray(header_bytes)
    _read_sealed(seal, file, memoryview(encoded))
    try:
        header = _decode(encoded)
    except ValueError as error:
        raise BadBlockFile(Flaw.CORRUPT, f"its header is wrong: {error}") from error
    if _file_bytes(header_bytes, (array.nbytes for array in header.arrays)) != length:
        raise BadBlockFile(Flaw.CORRUPT, "its arrays are not as long as its header says")
    return header, seal


def _decode(encoded: bytes | bytearray) -> BlockHeader:
    """Raises ValueError unless all of it holds together."""
    header = msgspec.msgpack.decode(encoded, type=_WrittenHeader)  # its errors are ValueErrors
    count, rest = divmod(len(header.tokens), TOKEN_BYTES)
    if rest or not count:
        raise ValueError(f"{len(header.tokens)} bytes of tokens")
    if header.start % BLOCK_TOKENS:
        raise ValueError(f"it starts at token {header.start}, inside a block")
    if header.first > count:
        raise ValueError(f"it holds tokens from {header.first} on, of {count}")
    digest = header.parent
    for offset in range(0, len(header.tokens), BLOCK_TOKENS * TOKEN_BYTES):
        digest = chain(digest, header.tokens[offset : offset + BLOCK_TOKENS * TOKEN_BYTES])
    if digest != header.key:
        raise ValueError("its key does not follow from its tokens")
    for array in header.arrays:
        if array.dtype not in ITEM_BYTES:
            raise ValueError(f"no type is called {array.dtype!r}")
    extent = Extent(header.namespace, header.parent, header.start, header.tokens, header.key)
    layouts = tuple(ArrayLayout(array.dtype, array.shape) for array in header.arrays)
    return BlockHeader(extent, header.part, header.first, layouts)


def _read_sealed(seal: Seal, file: BinaryIO, target: memoryview) -> None:
    try:
        seal.read_into(file, target)
    except SealBroken as error:
        raise BadBlockFile(Flaw.CORRUPT, str(error)) from error


def _file_bytes(header_bytes: int, array_bytes: Iterable[int]) -> int:
    return PREFIX.size + sealed_bytes(header_bytes) + sum(map(sealed_bytes, array_bytes))


def _create_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def _open_file_itself(path: str, flags: int) -> int:
    """No link is followed, and a named pipe does not block."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
