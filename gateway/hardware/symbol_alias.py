"""A shared library of one function that jumps to another library's function of a different name.

OpenBLAS's own wheels prefix their symbols (`scipy_cblas_sgemm`), so that they never meet another BLAS in one process.
mlx asks the dynamic linker for `cblas_sgemm`, and only a library that exports that very name can answer.
Source: "Tool Interface Standard ELF Specification" 1.2 and "System V ABI, AMD64 Architecture Processor Supplement" 1.0.
"""

import ctypes
import os
import struct

CODE_ADDRESS = 0x1000
DATA_ADDRESS = 0x2000
PAGE_BYTES = 0x1000

HEADER, PROGRAM_HEADER = "<4sBBBBB7xHHIQQQIHHHHHH", "<IIQQQQQQ"
SYMBOL, RELOCATION, TAG = "<IBBHQQ", "<QQq", "<QQ"
LOAD, DYNAMIC, GNU_STACK = 1, 2, 0x6474E551
READ, READ_EXECUTE, READ_WRITE = 4, 5, 6
DT_NULL, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_RELAENT, DT_STRSZ, DT_SYMENT = (
    0,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
)
GLOBAL_FUNCTION, SHARED_OBJECT, X86_64, GLOB_DAT = 0x12, 3, 62, 6


def alias_symbol(name: str, target: str) -> ctypes.CDLL:
    """Makes `name` callable for every library loaded from now on; `target` must be visible in the process already.

    Nothing is written to disk. Raises `OSError` or `AttributeError` where the system allows no such library, or
    `target` is not there.
    """
    file = os.memfd_create(f"{name}-alias")
    try:
        with os.fdopen(os.dup(file), "wb") as library:
            library.write(alias_library(name, target))
        alias = ctypes.CDLL(f"/proc/self/fd/{file}", mode=ctypes.RTLD_GLOBAL | os.RTLD_NOW)
        alias[name]  # an older library of the same path would not have it
        return alias
    finally:
        os.close(file)


def alias_library(name: str, target: str) -> bytes:
    """The library's file for x86-64: a page of tables, a page of code, and a page that the linker fills in."""
    strings = b"\0" + target.encode() + b"\0" + name.encode() + b"\0"
    target_name, own_name = 1, len(target) + 2
    symbols = b"".join(
        (
            struct.pack(SYMBOL, 0, 0, 0, 0, 0, 0),
            struct.pack(SYMBOL, target_name, GLOBAL_FUNCTION, 0, 0, 0, 0),  # section 0: somebody else's
            struct.pack(SYMBOL, own_name, GLOBAL_FUNCTION, 0, 1, CODE_ADDRESS, 16),
        )
    )
    buckets_and_chains = struct.pack("<7I", 1, 3, 1, 0, 2, 0, 0)  # one bucket: symbol 1, then 2
    slot = DATA_ADDRESS  # the linker puts the target's address here
    relocation = struct.pack(RELOCATION, slot, 1 << 32 | GLOB_DAT, 0)

    tables_at = struct.calcsize(HEADER) + 5 * struct.calcsize(PROGRAM_HEADER)
    symbols_at = tables_at + len(relocation)
    hash_at = symbols_at + len(symbols)
    strings_at = hash_at + len(buckets_and_chains)
    tags = {
        DT_HASH: hash_at,
        DT_STRTAB: strings_at,
        DT_SYMTAB: symbols_at,
        DT_RELA: tables_at,
        DT_RELASZ: len(relocation),
        DT_RELAENT: len(relocation),
        DT_STRSZ: len(strings),
        DT_SYMENT: struct.calcsize(SYMBOL),
        DT_NULL: 0,
    }
    dynamic = b"".join(struct.pack(TAG, tag, value) for tag, value in tags.items())
    jump = b"\xf3\x0f\x1e\xfa\xff\x25" + struct.pack("<i", slot - (CODE_ADDRESS + 10))  # endbr64; jmp *slot

    dynamic_at = DATA_ADDRESS + 8
    segments = (
        (LOAD, READ, 0, strings_at + len(strings)),
        (LOAD, READ_EXECUTE, CODE_ADDRESS, len(jump)),
        (LOAD, READ_WRITE, DATA_ADDRESS, 8 + len(dynamic)),
        (DYNAMIC, READ_WRITE, dynamic_at, len(dynamic)),
        (GNU_STACK, READ_WRITE, 0, 0),
    )
    header = struct.pack(
        HEADER, b"\x7fELF", 2, 1, 1, 0, 0, SHARED_OBJECT, X86_64, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0
    )
    program_headers = b"".join(
        struct.pack(PROGRAM_HEADER, kind, flags, at, at, at, size, size, PAGE_BYTES if kind == LOAD else 8)
        for kind, flags, at, size in segments
    )
    tables = header + program_headers + relocation + symbols + buckets_and_chains + strings
    return tables.ljust(CODE_ADDRESS, b"\0") + jump.ljust(PAGE_BYTES, b"\0") + bytes(8) + dynamic
